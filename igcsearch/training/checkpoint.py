"""A training's state in one file, written whole or not at all; nothing in it is unpickled.

safetensors: model.*, average.*, momentum.* by their names in the state dict, shuffle.* and groups.* where they are soft; in the
metadata, as JSON, what the run is (format, architecture, recipe, data, initial weights, callbacks), how far it is
(curve), the shuffles and group counts that were learned, and the callbacks' records, with tensors callback.NAME.*. Random
numbers are keyed, so there is no generator to keep.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from igcsearch.errors import UsageError
from igcsearch.files import replacing
from igcsearch.training.callback import Callback, identities
from igcsearch.training.step import Stepper

_FORMAT = 1
_KEY = "igcsearch"
_CURE = "remove it or name another file"


class CheckpointError(UsageError):
    """A checkpoint that this training cannot go on from: damaged, of another format, or of another training."""


def save_checkpoint(path: Path, stepper: Stepper, identity: dict[str, Any], curve: list[dict[str, Any]]) -> None:
    """Write the state after the last epoch of the curve; a process that dies meanwhile leaves the former file.

    Args:
        path: of the file; another one beside it is written and renamed onto it.
        stepper: the state.
        identity: what makes two runs the same (`checkpoint_identity`).
        curve: one dict for each epoch so far.

    Raises:
        UsageError: a place that cannot be written to.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_tensors(stepper).items()}
    about = {"format": _FORMAT, "identity": identity, "curve": curve}
    if stepper.learned is not None:
        about["learned"] = stepper.learned
    if stepper.callbacks:
        about["callbacks"] = {callback.name: callback.record for callback in stepper.callbacks}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            save_file(tensors, beside, metadata={_KEY: json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise UsageError(f"checkpoint {path} cannot be written ({error}); name a file in a folder with room") from None


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds: the curve, the record of what is learned (None: nothing), tensors, records of callbacks."""

    curve: list[dict[str, Any]]
    learned: dict[str, Any] | None
    tensors: dict[str, Tensor]
    callbacks: dict[str, dict[str, Any]]


def read_checkpoint(path: Path, identity: dict[str, Any]) -> Stored:
    """The content of a file.

    Raises:
        CheckpointError: a file that is damaged, of another format, or of another architecture, recipe, data or start.
            It is never overwritten in silence: it may be hours of somebody's work.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        version, theirs, curve = about["format"], about.get("identity"), about.get("curve")
        learned, callbacks = about.get("learned"), about.get("callbacks", {})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error}); {_CURE}") from None
    if version != _FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {version}, this version reads {_FORMAT}; {_CURE}")
    if not isinstance(theirs, dict) or not isinstance(curve, list):
        raise CheckpointError(f"checkpoint {path} does not say what training it is of; {_CURE}")
    for key, value in {**dict.fromkeys(theirs), **identity}.items():
        if theirs.get(key) != value:
            raise CheckpointError(
                f"checkpoint {path} is of another {key}{_difference(theirs.get(key), value)}; {_CURE}"
            )
    return Stored(curve, learned, tensors, callbacks)


def check_learned(path: Path, stepper: Stepper, learned: dict[str, Any] | None) -> None:
    """Raise CheckpointError unless the record is of the shuffles and group counts that this training learns."""

    def what(record: dict[str, Any] | None) -> tuple[set[str], ...] | None:
        return None if record is None else tuple(set(record.get(part, ())) for part in ("gaps", "groups"))

    if what(learned) != what(stepper.learned):
        raise CheckpointError(f"checkpoint {path} learns other shuffles or group counts than this training; {_CURE}")


def put_tensors(path: Path, stepper: Stepper, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of a file into the stepper, which is hard or soft as they are.

    Raises:
        CheckpointError: they are not those of this training.
    """
    ours = state_tensors(stepper)
    if {name: tensor.shape for name, tensor in ours.items()} != {
        name: tensor.shape for name, tensor in tensors.items()
    }:
        raise CheckpointError(f"checkpoint {path} holds other tensors than this training; {_CURE}")
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(tensors[name])


def checkpoint_identity(
    architecture_hash: str,
    recipe: dict[str, Any],
    data: str,
    initial_state: dict[str, Tensor] | None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """What a checkpoint must have in common with a training that goes on from it."""
    start = "fresh" if initial_state is None else state_digest(initial_state)
    found: dict[str, Any] = {
        "architecture": architecture_hash,
        "recipe": recipe,
        "data": data,
        "initial weights": start,
    }
    return {**found, "callbacks": identities(callbacks)} if callbacks else found


def state_digest(state: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits: of the names and the numbers of a state dict."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_tensors(stepper: Stepper) -> dict[str, Tensor]:
    """Every tensor that a step changes, by its name in the file."""
    named = {f"model.{name}": tensor for name, tensor in stepper.network.state_dict().items()}
    if stepper.average is not None:
        named |= {f"average.{name}": tensor for name, tensor in stepper.average.state_dict().items()}
    named |= {f"momentum.{name}": tensor for name, tensor in stepper.momentum_buffers().items()}
    for callback in stepper.callbacks:
        named |= {f"callback.{callback.name}.{name}": tensor for name, tensor in callback.state_tensors().items()}
    return named | ({} if stepper.soft is None else stepper.soft.state_tensors())


def _difference(theirs: object, ours: object) -> str:
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return f" ({theirs}, now {ours})"
    absent = "as by default"  # what a recipe leaves out
    pairs = {key: (theirs.get(key, absent), ours.get(key, absent)) for key in {**ours, **theirs}}
    differing = [f"{key} {before}, now {now}" for key, (before, now) in pairs.items() if before != now]
    return " (" + ", ".join(differing[:3]) + ")"
