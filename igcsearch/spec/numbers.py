"""Whole numbers that a caller gives: checked, and the nearest that work where one does not. Floor 0."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from itertools import islice
from typing import Any

from ..errors import UsageError


def whole(value: Any, what: str) -> int:
    """`value` as an int: an int, or what counts as one, such as numpy's.

    Equal floats are refused: 16.0 hashes as 16, so it would be taken for it by caches, and is no 16 in JSON.

    Raises:
        UsageError: any other value.
    """
    if type(value) is int:
        return value
    try:
        return int(operator.index(value))
    except TypeError:
        near = ""
        if isinstance(value, float) and math.isfinite(value):
            near = f"; use {' or '.join(map(str, sorted({math.floor(value), math.ceil(value)})))}"
        raise UsageError(f"{what} = {value!r} must be a whole number{near}") from None


def truth(value: Any, what: str) -> bool:
    """`value` as a bool: True or False, or what equals one of them, such as numpy's.

    Raises:
        UsageError: any other value.
    """
    if type(value) is bool:
        return value
    if getattr(value, "ndim", 0) or value not in (True, False):
        raise UsageError(f"{what} = {value!r} must be True or False")
    return bool(value)


def nearest(wanted: int, works: Callable[[int], bool], *, smallest: int = 1, reach: int | None = None) -> str:
    """The two whole numbers nearest to `wanted` for which `works` holds, for error messages: "48, 64".

    Args:
        smallest: below which no number is tried.
        reach: how far to look; None: as far as 4 * |wanted| + 64.
    """
    far = 4 * abs(wanted) + 64 if reach is None else reach
    tried = (other for d in range(far) for other in ((wanted - d, wanted + d) if d else (wanted,)))
    found = islice((other for other in tried if other >= smallest and works(other)), 2)
    return ", ".join(map(str, found)) or "none"
