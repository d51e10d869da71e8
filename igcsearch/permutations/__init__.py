"""Which channels shall share a group: permutations of a criterion matrix that keep most of it in diagonal blocks. Floor 0.

Learned shuffles and the compression of dense layers both ask this of a matrix of kernel norms (rows: output channels, columns:
input channels). The problem is NP-hard; `solve` has the two published ways for comparison and a better one, the default.

Shape legend: R rows, C columns, G groups of R/G rows and C/G columns.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError
from .annealing import best, quick
from .published import alternating, gconv_prune, strucspars
from .types import Criterion, Groups

__all__ = ["METHODS", "kept", "solve"]

#: name -> (criterion, groups, deadline or None, random numbers) -> groups of the rows and of the columns.
METHODS: dict[str, Callable[[Criterion, int, float | None, np.random.Generator], tuple[Groups, Groups]]] = {
    "best": best,
    "quick": quick,
    "alternating": alternating,
    "gconv-prune": gconv_prune,
    "strucspars": strucspars,
    "none": lambda criterion, groups, *_: (_in_order(len(criterion), groups), _in_order(criterion.shape[1], groups)),
}


def solve(
    criterion: ArrayLike, groups: int, *, method: str = "best", seconds: float | None = None, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Permutations of rows and columns that put much of a matrix into `groups` equal diagonal blocks.

    Args:
        criterion: (R, C), finite and not negative, such as norms of kernels; R output and C input channels.
        groups: divides R and C.
        method: one of METHODS: `best`; `quick`, the same without its long part (0.05 s where that takes 1); `alternating` exact
            assignments from 8 random starts; `gconv-prune`, the sorting heuristic with matching of Zhao and Luk (2019), 10 sorts;
            `strucspars`, the alternating linear programs of Zhang et al. (UAI 2021), 20 of them, one answer for all group counts;
            `none`.
        seconds: go on for so long; methods but `best` and `alternating` ignore it. None: as long as usually pays, and then the
            same input and seed give the same answer on every machine.
        seed: of random starts.

    Returns:
        (rows, cols), permutations (R,) and (C,): consecutive equal slices of both are the groups, so that
        `criterion[rows][:, cols]` has them on its diagonal. Within a group channels stand in their order.

    Raises:
        UsageError: a matrix, group count, method or time that cannot be.
    """
    matrix = _checked(criterion, groups, method, seconds)
    deadline = None if seconds is None else time.monotonic() + seconds
    rows, columns = METHODS[method](matrix, groups, deadline, np.random.default_rng(seed))
    return np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable")


def kept(criterion: ArrayLike, rows: ArrayLike, cols: ArrayLike, groups: int) -> float:
    """The share of a matrix's sum that lies in the diagonal blocks behind the permutations; 1 for a matrix of zeros."""
    matrix = np.asarray(criterion, dtype=np.float64)
    whole, (height, width) = matrix.sum(), matrix.shape
    blocks = matrix[np.asarray(rows)][:, np.asarray(cols)].reshape(groups, height // groups, groups, width // groups)
    return float(np.einsum("gigj->", blocks) / whole) if whole > 0 else 1.0


def _in_order(channels: int, groups: int) -> Groups:
    return np.repeat(np.arange(groups), channels // groups)


def _checked(criterion: ArrayLike, groups: int, method: str, seconds: float | None) -> Criterion:
    matrix = np.asarray(criterion, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise UsageError(f"a criterion of shape {matrix.shape} was given; it must be a matrix, (out, in), not empty")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise UsageError("the criterion has entries that are negative or no numbers; give magnitudes, such as norms")
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 1:
        raise UsageError(f"groups is {groups!r}; it must be a whole number of at least 1")
    if matrix.shape[0] % groups or matrix.shape[1] % groups:
        raise UsageError(f"{groups} groups do not divide a matrix of shape {matrix.shape}; give a common divisor")
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UsageError(f"unknown method {method!r}{hint}; known: {', '.join(METHODS)}")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds is {seconds!r}; it must be more than 0")
    return matrix
