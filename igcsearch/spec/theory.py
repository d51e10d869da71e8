"""What products of structured sparse kernels cost at the least, and how many factors are best. Floor 0.

The paper's letters: C width, K branch width, S kernel area, L factors (the spatial one included), n pointwise factors behind the
spatial one, Q weights. Everything here is closed form or exhaustive over the divisors of a width, and builds no matrix; what a
given product satisfies is in conditions.py, what of its weights is free in free_parameters.py. (`igcv2.md` 1.3 and 1.4.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..errors import UsageError
from .digits import prime_digits
from .numbers import nearest


class StrictFactorization(NamedTuple):
    """A width as a product of branch widths K_1 (of the spatial factor), K_2 ... K_L, and its weights Q."""

    branch_widths: tuple[int, ...]
    weights: int


class BestCount(NamedTuple):
    """The number of factors with the fewest weights, found in three ways.

    Attributes:
        continuous: where the derivative of the bound is zero.
        integer: the integer with the lowest bound.
        searched: of the cheapest strict factorization, among all.
    """

    continuous: float
    integer: int
    searched: int


def weight_bound(widths: Sequence[int], areas: Sequence[int]) -> float:
    """Fewest weights of any one-path product of these widths and kernel areas: L*(S*C_0*prod C_l)^(1/L) (`igcv2.md` 1.3).

    It is met where all S_l*Kin_l*C_l are equal (balance). On one width C it is L*C*(S*C)^(1/L).

    Args:
        widths: channels C_0, C_1 ... C_L in front of the first factor and behind each.
        areas: kernel positions S_1 ... S_L of the factors; S is their product.

    Raises:
        UsageError: no factor, not one width more than areas, or a number below 1.
    """
    if not areas or len(widths) != len(areas) + 1:
        raise UsageError(
            f"{len(widths)} widths and {len(areas)} areas: a product of L factors has L + 1 widths and L areas; "
            f"give the width in front of the first factor and that behind each"
        )
    if min(*widths, *areas) < 1:
        raise UsageError(f"widths {list(widths)} and areas {list(areas)} of a product must be at least 1")
    return len(areas) * math.exp(sum(map(math.log, (*widths, *areas))) / len(areas))


def pointwise_bound(width: int, pointwise: int, *, spatial_branch_width: int = 1, area: int = 9) -> float:
    """Fewest weights with the spatial factor fixed: C*(S*K_1 + n*(C/K_1)^(1/n)), with K_1 = 1 C*(9 + n*C^(1/n)) (`igcv2.md` 1.3).

    Args:
        width: C, of every factor.
        pointwise: n, the 1x1 factors behind the spatial one; 0 only where K_1 = C.
        spatial_branch_width: K_1, a divisor of C.
        area: S of the spatial factor.

    Raises:
        UsageError: a number below 1, K_1 that does not divide C, or no 1x1 factor where one is needed.
    """
    rest = _rest(width, spatial_branch_width)
    _positive(area=area)
    spatial = width * area * spatial_branch_width
    if pointwise < 1:
        if pointwise == 0 and rest == 1:
            return float(spatial)
        raise UsageError(
            f"{pointwise} 1x1 factors cannot mix {width} channels in branches of {spatial_branch_width}; use at least 1"
        )
    return spatial + pointwise * width * rest ** (1 / pointwise)


def cost_per_nat(branch_width: int) -> float:
    """K / ln K: weights a channel for each nat of width that a factor of branch width K mixes; less is better (`igcv2.md` 1.3).

    Least at e (2.718), of the integers at 3 (2.731), then 2 and 4 (both 2.885).

    Args:
        branch_width: K, in channels.

    Raises:
        UsageError: a branch width below 2, which mixes nothing.
    """
    if branch_width < 2:
        raise UsageError(f"branch width {branch_width} mixes no channels; K / ln K is of branch widths from 2 up")
    return branch_width / math.log(branch_width)


def best_factors(width: int, *, area: int = 9) -> BestCount:
    """L with the fewest weights, the spatial factor included, for free K_1: L* = ln(S*C) (`igcv2.md` 1.3).

    The bound lets branch widths be any real numbers, with S*K_1 near e; `searched` has integers, and stays below L*; only
    at area 1 it can be L* rounded up (widths 2, 6, 18 and 54), and 1 for width 1.

    Args:
        width: C, of every factor.
        area: S of the spatial factor.

    Raises:
        UsageError: a width or an area below 1.
    """
    _positive(width=width, area=area)
    searched = cheapest_factorization(width, area=area)
    return BestCount(math.log(area * width), _best_integer(area * width), len(searched.branch_widths))


def best_pointwise_factors(width: int, *, spatial_branch_width: int = 1) -> BestCount:
    """n with the fewest weights behind a spatial factor of fixed K_1: n* = ln(C/K_1), with K_1 = 1 ln C (`igcv2.md` 1.3).

    The spatial factor is not counted, and its kernel area changes nothing; 0 where K_1 = C leaves nothing to mix.

    Args:
        width: C, of every factor.
        spatial_branch_width: K_1, a divisor of C; 1 is the channel-wise 3x3.

    Raises:
        UsageError: a width below 1, or K_1 that does not divide it.
    """
    rest = _rest(width, spatial_branch_width)
    searched = cheapest_factorization(width, spatial_branch_width=spatial_branch_width)
    integer = _best_integer(rest) if rest > 1 else 0
    return BestCount(math.log(rest), integer, len(searched.branch_widths) - 1)


def cheapest_factorization(
    width: int, *, pointwise: int | None = None, spatial_branch_width: int | None = None, area: int = 9
) -> StrictFactorization:
    """The strict factorization of a width with the fewest weights Q = C*(S*K_1 + K_2 + ... + K_L), among all (`igcv2.md` 1.3).

    Branch widths of 1x1 factors are at least 2 and come in ascending order, which changes neither Q nor the level; of equally
    cheap ones the fewest factors, then the first in lexicographic order.

    Args:
        width: C, of every factor; the product of all branch widths.
        pointwise: n = L - 1, the 1x1 factors behind the spatial one, or None: any number.
        spatial_branch_width: K_1, or None: any divisor of C; 1 is the channel-wise 3x3.
        area: S of the spatial factor.

    Raises:
        UsageError: a number below 1, K_1 that does not divide C, or more or fewer 1x1 factors than the width allows.
    """
    _positive(width=width, area=area)
    firsts = _divisors(width) if spatial_branch_width is None else (spatial_branch_width,)
    best: tuple[int, int, tuple[int, ...]] | None = None
    for first in firsts:
        rest = _rest(width, first)
        for count in range(len(prime_digits(rest)) + 1) if pointwise is None else (pointwise,):
            if found := _least_sum(rest, count, 2):
                total, others = found
                candidate = (width * (area * first + total), count, (first, *others))
                best = candidate if best is None else min(best, candidate)
    if best is None:
        primes = prime_digits(width // (spatial_branch_width or 1))
        fewest = 0 if spatial_branch_width is None or not primes else 1
        allowed = f"{fewest} to {len(primes)}" if len(primes) > fewest else f"{fewest}"
        raise UsageError(
            f"width {width} has no strict factorization with {pointwise} 1x1 factors: {math.prod(primes)} = "
            f"{'*'.join(map(str, primes)) or 1} is left to them; use {allowed}"
        )
    return StrictFactorization(best[2], best[0])


def dense_factors(width: int, branch_width: int) -> int:
    """The fewest interleaved factors of one branch width that leave no pair of channels without a path: ceil(log_K C).

    Enough at any multiple of K, and never fewer, as n factors reach K^n channels at most (`igcv2.md` 1.4). In exact integers.

    Args:
        width: C, of every factor.
        branch_width: K, at least 2, a divisor of C.

    Raises:
        UsageError: a branch width below 2 or one that does not divide the width.
    """
    if branch_width < 2 or width < 1 or width % branch_width:
        hint = ""
        if branch_width >= 2:
            widths = nearest(width, lambda other: other % branch_width == 0, reach=abs(width) + 2 * branch_width + 1)
            hint = f"; nearest widths: {widths}"
        raise UsageError(f"branch width {branch_width} must be at least 2 and divide {width} channels{hint}")
    count, reached = 1, branch_width
    while reached < width:
        count += 1
        reached *= branch_width
    return count


def _best_integer(product: int) -> int:
    """The n >= 1 with the least n*x^(1/n), in exact integers; the smaller one where two are equal (x = 4).

    n is no worse than n + 1 where x <= (1 + 1/n)^(n*(n+1)), which rises with n.
    """
    n = 1
    while product * n ** (n * (n + 1)) > (n + 1) ** (n * (n + 1)):
        n += 1
    return n


@lru_cache(maxsize=65536)
def _least_sum(product: int, count: int, smallest: int) -> tuple[int, tuple[int, ...]] | None:
    """The least sum of `count` ascending numbers from `smallest` up with that product, and the numbers; None if there are none."""
    if count <= 1:
        if count == 0 and product == 1:
            return 0, ()
        return (product, (product,)) if count == 1 and product >= smallest else None
    best = None
    for first in _divisors(product):
        if first**count > product:
            break
        if first >= smallest and (found := _least_sum(product // first, count - 1, first)):
            candidate = (first + found[0], (first, *found[1]))
            best = candidate if best is None else min(best, candidate)
    return best


@lru_cache(maxsize=65536)
def _divisors(width: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [d for d in range(1, math.isqrt(width) + 1) if width % d == 0]
    return tuple(sorted({*small, *(width // d for d in small)}))


def _rest(width: int, spatial_branch_width: int) -> int:
    """What is left to mix behind a spatial factor: C / K_1."""
    _positive(width=width)
    if spatial_branch_width < 1 or width % spatial_branch_width:
        raise UsageError(
            f"spatial branch width {spatial_branch_width} must divide {width} channels; use one of its divisors: "
            f"{', '.join(map(str, _divisors(width)))}"
        )
    return width // spatial_branch_width


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(f"{name} = {number} of a product must be at least 1")
