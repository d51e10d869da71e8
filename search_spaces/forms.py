"""How each block family can be made at given widths: the options of its definition, the cheapest first. Floor 2.

igcv1 and igcv2 come only strict or nearly complementary, transitions included. Behind a 3x3 of branch width K_1 that takes
C_in to C_out channels, interleaved 1x1 factors of branch widths K_2 ... K_L leave floor or ceil of prod K / C_in paths a
pair, so the condition is C_in <= K_1 * K_2 * ... * K_L <= 2 * C_in (`igcv2.md` 1.5, extended to C_in != C_out; the tests count
the paths). Forms that cost over SPREAD times the cheapest are left out: balance is where the papers' accuracy is best.

Of the others: group counts that leave no pair of channels without a path (shufflenet, monarch: loose ones too), branches of two
channels or more (resnext), bases of which the width is a power (butterfly), middles of two or more (resnet_bottleneck). Widths at
which a family has no form are not offered for it (`plans.grown`): butterfly's are powers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from igcsearch.blocks import FAMILIES
from igcsearch.errors import UsageError
from igcsearch.spec import Block, Cost
from igcsearch.spec.conditions import need_factorization

#: Options of a block definition, as sorted (name, value) pairs.
Form = tuple[tuple[str, Any], ...]

SPREAD = 1.6
_EXPANSIONS = ("expansion", (2, 3, 4, 6))
#: The one number that some families have for a whole network: its parameter's name and its values, the cheapest first.
NUMBERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "igcv2": ("factors", (2, 3, 4)),
    "igcv3": _EXPANSIONS,
    "mobilenetv2": _EXPANSIONS,
}
#: Branch widths K_1 of igcv2's 3x3.
SPATIAL = (1, 2, 4)
_IGCV3_GROUPS = ((4, 4), (2, 4), (4, 2), (2, 2))
_REDUCTIONS = (8, 4, 2)


def numbers_of(family: str) -> tuple[str, tuple[int, ...]]:
    """The family's entry of NUMBERS; no name and 0 for one without."""
    return NUMBERS.get(family, ("", (0,)))


def divisors(width: int) -> tuple[int, ...]:
    """Divisors of a width from 2 up, itself included."""
    return tuple(d for d in range(2, width + 1) if width % d == 0)


@lru_cache(maxsize=65536)
def branch_widths(
    in_channels: int, out_channels: int, factors: int, spatial_branch_width: int = 1
) -> tuple[tuple[int, ...], ...]:
    """Branch widths of the `factors` 1x1 factors with which an igcv2 block is strict or nearly; the fewest weights first.

    Each is in ascending order (the order of the factors does not matter to the condition).

    Raises:
        UsageError: there are none; names the nearest widths that have a strict one.
    """
    low, high = -(-in_channels // spatial_branch_width), 2 * in_channels // spatial_branch_width
    found = [] if in_channels % spatial_branch_width else list(_products(divisors(out_channels), factors, low, high))
    if not found:
        need_factorization(low, factors)  # its message names the nearest widths
        raise UsageError(
            f"{in_channels} -> {out_channels} channels have no {factors} branch widths with a product in [{low}, {high}]; "
            f"use fewer factors or a width with more divisors"
        )
    fewest = min(map(sum, found))
    return tuple(sorted((ks for ks in found if sum(ks) <= SPREAD * fewest), key=lambda ks: (sum(ks), ks)))


def _products(allowed: tuple[int, ...], count: int, low: int, high: int) -> Iterator[tuple[int, ...]]:
    """Ascending tuples of `count` allowed numbers with a product in [low, high]."""
    if count == 0:
        if low <= 1 <= high:
            yield ()
        return
    for index, first in enumerate(allowed):
        if first**count > high:
            return
        for rest in _products(allowed[index:], count - 1, -(-low // first), high // first):
            yield (first, *rest)


@lru_cache(maxsize=65536)
def forms(family: str, number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    """The forms of a family's block between two widths, the cheapest first; empty where there is none.

    Args:
        number: of NUMBERS, 0 for a family without. igcv2 takes fewer factors where the widths do not allow so many.
        spatial: K_1 of igcv2, or the next larger one that the widths allow.
    """
    made = _FORMS.get(family)
    return ((),) if made is None else made(number, spatial, in_channels, out_channels)


def _igcv1_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    # K_1 = C_in / L >= 2 (1 is Xception), or 1 at a transition; secondary branch width L: always strict
    common = math.gcd(in_channels, out_channels)
    groups = [L for L in divisors(common) if in_channels > L or in_channels != out_channels]
    weights = {L: 9 * in_channels // L * out_channels + L * out_channels for L in groups}
    limit = SPREAD * min(weights.values(), default=0)
    return _each("primary_groups", (L for weight, L in sorted((w, L) for L, w in weights.items()) if weight <= limit))


def _igcv2_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    for k in range(spatial, in_channels + 1):
        if in_channels % k or out_channels % (in_channels // k):
            continue
        for count in range(number, 0, -1):
            try:
                found = branch_widths(in_channels, out_channels, count, k)
            except UsageError:
                continue
            return tuple((("branch_widths", ks), ("spatial_branch_width", k)) for ks in found)
    return ()


def _igcv3_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    fits = [g for g in _IGCV3_GROUPS if in_channels % math.lcm(*g) == 0 and out_channels % g[1] == 0]
    return tuple((("expansion", number), ("groups", g)) for g in fits)


def _mobilenetv2_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    return _each("expansion", (number,))


def _shufflenet_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    # G^2 <= middle: behind the shuffle each branch of the second 1x1 reads channels of every branch of the first
    if out_channels % 4:
        return ()
    middle = out_channels // 4
    common = math.gcd(in_channels, middle, out_channels - in_channels)
    groups = [g for g in (1, *divisors(common)) if g * g <= middle and out_channels >= in_channels]
    return _each("groups", reversed(groups))


def _shufflenetv2_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    return () if out_channels % 2 else ((),)


def _resnext_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    middle = out_channels // 2  # of branches at least two wide: one is the channel-wise 3x3
    return () if out_channels % 2 else _each("groups", (g for g in reversed(divisors(middle)) if 2 * g <= middle))


def _bottleneck_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    return _each("reduction", (r for r in _REDUCTIONS if out_channels % r == 0 and out_channels >= 2 * r))


def _monarch_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    # C_in / G^2 paths a pair, strict at 1; 4 groups, the released code's, leave more at all but the least widths
    good = [g for g in divisors(math.gcd(in_channels, out_channels)) if g * g <= min(in_channels, out_channels)]
    return _each("groups", reversed(good))


def _butterfly_forms(number: int, spatial: int, in_channels: int, out_channels: int) -> tuple[Form, ...]:
    # log_K C_in factors of K * C_out weights each; a single one would be dense
    counts = {K: n for K in divisors(in_channels) for n in range(2, in_channels.bit_length()) if K**n == in_channels}
    good = counts if out_channels % in_channels == 0 else ()
    return _each("base", sorted(good, key=lambda K: (K * counts[K], K)))


def _each(name: str, values: Iterable[int]) -> tuple[Form, ...]:
    return tuple(((name, value),) for value in values)


_FORMS: dict[str, Callable[[int, int, int, int], tuple[Form, ...]]] = {
    "igcv1": _igcv1_forms,
    "igcv2": _igcv2_forms,
    "igcv3": _igcv3_forms,
    "mobilenetv2": _mobilenetv2_forms,
    "shufflenet": _shufflenet_forms,
    "shufflenetv2": _shufflenetv2_forms,
    "resnext": _resnext_forms,
    "resnet_bottleneck": _bottleneck_forms,
    "monarch": _monarch_forms,
    "butterfly": _butterfly_forms,
}


#: The forms of a stage's first block and of the others.
StageForm = tuple[Form, Form]


@lru_cache(maxsize=65536)
def stage_forms(
    family: str, number: int, spatial: int, in_channels: int, out_channels: int, deep: bool
) -> tuple[StageForm, ...]:
    """The forms of a stage, the cheapest first: at a width change the first block has forms of its own.

    Args:
        deep: whether the stage has more than one block.
    """
    first = forms(family, number, spatial, in_channels, out_channels)
    if not deep or in_channels == out_channels:
        return tuple((form, form) for form in first)
    others = forms(family, number, spatial, out_channels, out_channels)
    if not first or not others:
        return ()
    count = max(len(first), len(others))
    return tuple((first[i * len(first) // count], others[i * len(others) // count]) for i in range(count))


def block(family: str, form: Form, in_channels: int, out_channels: int, **options: Any) -> Block:
    """The block of a form; memoised by the definition."""
    return FAMILIES[family](in_channels, out_channels, **dict(form), **options)


@lru_cache(maxsize=262144)
def block_cost(
    family: str, form: Form, in_channels: int, out_channels: int, stride: int, residual: bool, size: int
) -> tuple[Cost, int]:
    """Cost of one block on a map of side `size`, and the side behind it."""
    return block(family, form, in_channels, out_channels, stride=stride, residual=residual).cost_at(size)


def stage_cost(
    family: str,
    form: StageForm,
    in_channels: int,
    out_channels: int,
    depth: int,
    stride: int,
    residual: bool,
    size: int,
) -> tuple[int, int, int]:
    """Parameters and MACs of a stage of `depth` blocks on a map of side `size`, and the side behind it."""
    (params, macs), size = block_cost(family, form[0], in_channels, out_channels, stride, residual, size)
    if depth > 1:
        other = block_cost(family, form[1], out_channels, out_channels, 1, residual, size)[0]
        params += (depth - 1) * other.params
        macs += (depth - 1) * other.macs
    return params, macs, size


@lru_cache(maxsize=262144)
def cheapest_cost(
    family: str,
    number: int,
    spatial: int,
    in_channels: int,
    out_channels: int,
    depth: int,
    stride: int,
    residual: bool,
    size: int,
) -> tuple[int, int, int]:
    """`stage_cost` of a stage in its cheapest form."""
    form = stage_forms(family, number, spatial, in_channels, out_channels, depth > 1)[0]
    return stage_cost(family, form, in_channels, out_channels, depth, stride, residual, size)
