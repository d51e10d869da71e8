"""Specifications as JSON data and back: fields at their default are left out, unknown or ill-typed ones are refused. Floor 0.

The same data, less the schema version, is what the hash is taken of (architecture.py); so a new field with a default
changes no hash, and a default, once released, never changes.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from ..errors import UsageError, near
from .block import Block, Parallel, Step
from .factor import Factor, Shuffle
from .steps import ChannelStep, NormAct, Pool, SqueezeExcitation

_FACTOR_FIELDS = {
    "in_channels": int,
    "out_channels": int,
    "kernel_size": int,
    "groups": int,
    "stride": int,
    "dilation": int,
    "bias": bool,
    "norm": bool,
    "activation": str,
    "sparsity": list,
    "sparse_axis": str,
}
#: "op" of the steps that hand every channel on by itself: the class and its fields.
_CHANNEL_STEPS: dict[str, tuple[type[ChannelStep], dict[str, type]]] = {
    "pool": (Pool, {"channels": int, "kind": str, "kernel_size": int, "stride": int}),
    "norm_act": (NormAct, {"channels": int, "norm": bool, "activation": str}),
    "squeeze_excitation": (SqueezeExcitation, {"channels": int, "reduced": int, "activation": str, "gate": str}),
}
_OPERATIONS = {cls: operation for operation, (cls, _) in _CHANNEL_STEPS.items()}
_SHUFFLE_FIELDS = {"kind": str, "seed": int}


def canonical(data: Any) -> str:
    """The one text of JSON data: keys sorted, no spaces. Hashes are taken of it."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def step_data(step: Step) -> dict[str, Any]:
    """JSON data of a step; a factor needs no "op"."""
    if isinstance(step, Factor):
        found = _given(step, _FACTOR_FIELDS, Factor)
        if step.sparsity is not None:
            found["sparsity"] = list(step.sparsity)
        return _with_shuffle(found, step.shuffle, Shuffle())
    if isinstance(step, ChannelStep):
        operation = _OPERATIONS[type(step)]
        cls, types = _CHANNEL_STEPS[operation]
        return {"op": operation, **_given(step, types, cls)}
    data = {"op": "parallel", "in_channels": step.in_channels, "lanes": [steps_data(lane) for lane in step.lanes]}
    if step.split is not None:
        data["split"] = list(step.split)
    if step.join != "concat":
        data["join"] = step.join
    return _with_shuffle(data, step.shuffle, Shuffle("identity"))


def steps_data(steps: tuple[Step, ...]) -> list[dict[str, Any]]:
    """JSON data of a product of steps."""
    return [step_data(step) for step in steps]


def block_data(block: Block) -> dict[str, Any]:
    """JSON data of a block."""
    data: dict[str, Any] = {"steps": steps_data(block.steps)}
    if block.shortcut is not None:
        data["shortcut"] = steps_data(block.shortcut)
    if block.activation is not None:
        data["activation"] = block.activation
    if block.family:
        data["family"] = block.family
    if block.learned_groups:
        data["learned_groups"] = True
    return data


def block_text(steps: str, shortcut: str | None, activation: str | None, family: str, learned_groups: bool) -> str:
    """Canonical text of a block, put together from the canonical texts of its parts (keys in order)."""
    parts = [f'"activation":"{activation}"'] if activation is not None else []
    parts += [f'"family":{canonical(family)}'] if family else []
    parts += ['"learned_groups":true'] if learned_groups else []
    parts += [f'"shortcut":{shortcut}'] if shortcut is not None else []
    return "{" + ",".join([*parts, f'"steps":{steps}']) + "}"


def steps_text(steps: tuple[Step, ...]) -> str:
    """Canonical text of a product of steps. Blocks are many, steps few: each step's text is kept."""
    return "[" + ",".join(map(_step_text, steps)) + "]"


@lru_cache(maxsize=65536)
def _step_text(step: Step) -> str:
    return canonical(step_data(step))


def parse_step(data: Any, where: str) -> Step:
    """The inverse of `step_data`; `where` is the place in the document, for error messages."""
    fields = dict(check_object(data, where))
    operation = _check(fields.pop("op", "convolution"), str, f"{where}.op")
    if operation == "convolution":
        shuffle = parse_shuffle(fields.pop("shuffle", None), f"{where}.shuffle", Shuffle())
        return _build(Factor, fields, _FACTOR_FIELDS, where, shuffle=shuffle)
    if operation == "parallel":
        return _parse_parallel(fields, where)
    if operation in _CHANNEL_STEPS:
        cls, types = _CHANNEL_STEPS[operation]
        return _build(cls, fields, types, where)
    known = ("convolution", "parallel", *_CHANNEL_STEPS)
    raise UsageError(f"{where}.op: unknown operation {operation!r}{near(operation, known)}; known: {', '.join(known)}")


def parse_steps(data: Any, where: str) -> tuple[Step, ...]:
    """The inverse of `steps_data`."""
    return tuple(parse_step(item, f"{where}[{i}]") for i, item in enumerate(check_list(data, where)))


def parse_block(data: Any, where: str) -> Block:
    """The inverse of `block_data`."""
    fields = dict(check_object(data, where))
    steps = parse_steps(fields.pop("steps", None), f"{where}.steps")
    shortcut = fields.pop("shortcut", None)
    parsed = None if shortcut is None else parse_steps(shortcut, f"{where}.shortcut")
    types = {"activation": str, "family": str, "learned_groups": bool}
    return _build(Block, fields, types, where, steps=steps, shortcut=parsed)


def parse_shuffle(data: Any, where: str, default: Shuffle) -> Shuffle:
    """A shuffle from its JSON data, `default` where there is none."""
    if data is None:
        return default
    fields = dict(check_object(data, where))
    order = fields.pop("order", None)
    parsed = None if order is None else tuple(_check(item, int, f"{where}.order") for item in check_list(order, where))
    return _build(Shuffle, fields, _SHUFFLE_FIELDS, where, order=parsed)


def check_object(data: Any, where: str) -> dict[str, Any]:
    """`data` if it is a JSON object, else UsageError."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: expected a JSON object, found {type(data).__name__}")
    return data


def check_list(data: Any, where: str) -> list[Any]:
    """`data` if it is a JSON list, else UsageError."""
    if not isinstance(data, list):
        raise UsageError(f"{where}: expected a JSON list, found {type(data).__name__}")
    return data


def check_fields(fields: dict[str, Any], types: dict[str, type], where: str) -> dict[str, Any]:
    """`fields` if every name is known and every value has its type, else UsageError with near matches."""
    for name, value in fields.items():
        if name not in types:
            raise UsageError(f"{where}: unknown field {name!r}{near(name, types)}; known: {', '.join(types)}")
        _check(value, types[name], f"{where}.{name}")
    return fields


def _build(cls: type, fields: dict[str, Any], types: dict[str, type], where: str, **parsed: Any) -> Any:
    try:
        return cls(**check_fields(fields, types, where), **parsed)
    except UsageError as error:
        if str(error).startswith(where):
            raise
        raise UsageError(f"{where}: {error}") from None
    except TypeError as error:  # a required field that is not there
        raise UsageError(f"{where}: {str(error).split('__init__() ')[-1]}") from None


def _check(value: Any, kind: type, where: str) -> Any:
    if kind is float and type(value) is int:
        return value
    if type(value) is not kind:
        raise UsageError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _given(step: Any, types: dict[str, type], cls: type) -> dict[str, Any]:
    """The fields of `step` that differ from their class default."""
    defaults = cls.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: value for name in types if (value := getattr(step, name)) != defaults[name].default}


def _with_shuffle(data: dict[str, Any], shuffle: Shuffle, default: Shuffle) -> dict[str, Any]:
    if shuffle != default:
        data["shuffle"] = _given(shuffle, {"seed": int}, Shuffle) | {"kind": shuffle.kind}
        if shuffle.order is not None:
            data["shuffle"]["order"] = list(shuffle.order)
    return data


def _parse_parallel(fields: dict[str, Any], where: str) -> Parallel:
    lanes = tuple(
        parse_steps(lane, f"{where}.lanes[{i}]") for i, lane in enumerate(check_list(fields.pop("lanes", None), where))
    )
    split = fields.pop("split", None)
    parsed = (
        None if split is None else tuple(_check(width, int, f"{where}.split") for width in check_list(split, where))
    )
    shuffle = parse_shuffle(fields.pop("shuffle", None), f"{where}.shuffle", Shuffle("identity"))
    types = {"in_channels": int, "join": str}
    return _build(Parallel, fields, types, where, lanes=lanes, split=parsed, shuffle=shuffle)
