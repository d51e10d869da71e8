"""What makes a function a block definition: its arguments are checked, and equal ones give the identical block. Floor 1."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Any, ParamSpec

from igcsearch.errors import UsageError
from igcsearch.spec import Block
from igcsearch.spec.numbers import truth, whole

P = ParamSpec("P")


def definition(build: Callable[P, Block]) -> Callable[P, Block]:
    """Memoise a function of numbers, flags and names that gives a Block, by values and types.

    By types, as 16.0 equals 16: a block of floats must not answer for one of ints. Arguments are checked on their first way in, by
    the function's annotations (int, tuple of int, bool): numpy's ints become ints, lists become tuples, so that any spelling of a
    call gives one object; what is known costs no check.

    Raises:
        UsageError: (from the definition) a number that is not whole, a flag that is none, or a value that cannot be hashed.
    """
    parameters = inspect.signature(build).parameters
    kinds = {name: str(parameter.annotation) for name, parameter in parameters.items()}
    names = tuple(parameters)

    def plain(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (
            tuple(_plain(value, name, kinds[name]) for value, name in zip(args, names, strict=False)),
            {name: _plain(value, name, kinds.get(name, "")) for name, value in options.items()},
        )

    @lru_cache(maxsize=65536, typed=True)
    def known(*args: Any, **options: Any) -> Block:
        # Only what is plain is built, so what is kept is. (The items of a tuple are compared without their types.)
        spelled, given = plain(args, options)
        if _types((args, options)) != _types((spelled, given)):
            return known(*spelled, **given)
        return build(*args, **options)

    @wraps(build)
    def call(*args: P.args, **options: P.kwargs) -> Block:
        try:
            return known(*args, **options)  # type: ignore[arg-type]
        except TypeError:  # lists cannot be hashed; anything else comes again
            spelled, given = plain(args, options)
            return known(*spelled, **given)

    return call


def _plain(value: Any, name: str, kind: str) -> Any:
    """The value of a parameter as its annotation has it."""
    if value is None and "None" in kind:
        return value
    if kind.startswith("tuple[int"):
        if not isinstance(value, tuple | list):
            raise UsageError(f"{name} = {value!r} must be a tuple of whole numbers, such as (4, 4)")
        return tuple(whole(item, f"an item of {name}") for item in value)
    if kind.startswith("int"):
        return whole(value, name)
    if kind == "bool":
        return truth(value, name)
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, Hashable):
        raise UsageError(f"{name} = {value!r} cannot be an option of a block")
    return value


def _types(value: Any) -> Any:
    """The types of arguments, those of tuples' items included."""
    if isinstance(value, tuple | list):
        return (type(value), *map(_types, value))
    return {name: _types(item) for name, item in value.items()} if isinstance(value, dict) else type(value)
