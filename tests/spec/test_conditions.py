"""Path counts, levels, balance and factorizations against independent oracles."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igcsearch.blocks import dense, igcv1, igcv2, igcv2_uniform, igcv3, xception
from igcsearch.errors import UsageError
from igcsearch.spec import (
    Block,
    ChannelStep,
    Factor,
    NormAct,
    Parallel,
    Pool,
    Shuffle,
    SqueezeExcitation,
    conditions,
    theory,
)
from igcsearch.spec.block import every_factor
from igcsearch.spec.conditions import factorizations, path_counts


def walk(step: Factor | ChannelStep | Parallel, arriving: Counter[int]) -> Counter[int]:
    """Oracle: paths counted by walking every single edge, without a matrix."""
    if isinstance(step, ChannelStep):
        return arriving
    leaving: Counter[int] = Counter()
    if isinstance(step, Factor):
        out_width = step.out_channels // step.groups
        for channel, paths in arriving.items():
            branch = channel // (step.in_channels // step.groups)
            for out in range(branch * out_width, (branch + 1) * out_width):
                leaving[out] += paths
    else:
        offset_in = offset_out = 0
        for lane, width, out in zip(step.lanes, step.lane_widths, step.lane_outputs, strict=True):
            mine = Counter({c - offset_in: n for c, n in arriving.items() if offset_in <= c < offset_in + width})
            for inner in lane:
                mine = walk(inner, mine)
            for channel, paths in mine.items():
                leaving[channel + offset_out] += paths
            offset_in += width if step.split else 0
            offset_out += out if step.join == "concat" else 0
    order = step.order.tolist()
    return Counter({position: leaving[channel] for position, channel in enumerate(order) if leaving[channel]})


def oracle(steps: tuple[Factor | ChannelStep | Parallel, ...]) -> np.ndarray:
    """Path counts, column by column, by `walk`."""
    counts = np.zeros((steps[-1].out_channels, steps[0].in_channels), dtype=int)
    for channel in range(steps[0].in_channels):
        arriving = Counter({channel: 1})
        for step in steps:
            arriving = walk(step, arriving)
        for out, paths in arriving.items():
            counts[out, channel] = paths
    return counts


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def shuffles(draw: st.DrawFn, channels: int) -> Shuffle:
    kind = draw(st.sampled_from(["interleave", "identity", "random", "explicit"]))
    if kind == "random":
        return Shuffle("random", seed=draw(st.integers(0, 99)))
    if kind == "explicit":
        return Shuffle("explicit", order=tuple(draw(st.permutations(range(channels)))))
    return Shuffle(kind)


@st.composite
def products(draw: st.DrawFn, lanes: bool = True) -> tuple[Factor | ChannelStep | Parallel, ...]:
    width = draw(st.sampled_from([4, 6, 8, 12]))
    steps: list[Factor | ChannelStep | Parallel] = []
    for _ in range(draw(st.integers(1, 4))):
        if lanes and draw(st.integers(0, 5)) == 0:
            alone = (NormAct(width, norm=True), SqueezeExcitation(width, 2), Pool(width))
            steps.append(draw(st.sampled_from(alone)))
        if lanes and width % 2 == 0 and draw(st.integers(0, 3)) == 0:
            half = width // 2
            inner = (Factor(half, half, groups=draw(st.sampled_from(divisors(half)))),)
            steps.append(Parallel(((), inner), width, split=(half, half), shuffle=draw(shuffles(width))))
            continue
        out = draw(st.sampled_from([width, 2 * width])) if width < 13 else width
        groups = draw(st.sampled_from(divisors(width)))
        kernel = draw(st.sampled_from([1, 3]))
        steps.append(Factor(width, out, kernel, groups=groups, shuffle=draw(shuffles(out))))
        width = out
    return tuple(steps)


@given(products())
@settings(max_examples=150, deadline=None)
def test_path_counts_equal_a_walk_over_every_edge(steps: tuple[Factor | ChannelStep | Parallel, ...]) -> None:
    expected = oracle(steps)
    np.testing.assert_array_equal(path_counts(steps), expected)
    found = conditions.paths(steps)  # closed form or counted
    assert (found.smallest, found.largest) == (expected.min(), expected.max())
    assert found.mean == pytest.approx(expected.mean())


def test_lanes_that_are_added_add_their_paths() -> None:
    twice = Parallel(((Factor(4, 4),), (Factor(4, 4, groups=2),)), 4, join="add")
    np.testing.assert_array_equal(path_counts((twice,)), oracle((twice,)))
    assert path_counts((twice,)).max() == 2


@given(st.sampled_from([w for c in (16, 24, 30, 36, 64) for n in (2, 3, 4) for w in factorizations(c, n)]))
@settings(max_examples=60, deadline=None)
def test_every_factorization_interleaved_is_strict(widths: tuple[int, ...]) -> None:
    channels = math.prod(widths)
    block = igcv2(channels, channels, branch_widths=widths)
    assert block.report["complementary"] == "strict"
    assert conditions.is_strict(block.steps)  # the exact check agrees with the closed form
    assert (path_counts(block.steps) == 1).all()


@given(st.integers(1, 40), st.lists(st.integers(2, 16), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_interleave_counts_are_floor_or_ceil_at_any_widths_that_divide(scale: int, widths: list[int]) -> None:
    channels = math.lcm(*widths) * scale
    if channels > 360:
        return
    factors = tuple(Factor(channels, channels, groups=channels // width) for width in widths)
    counts = path_counts(factors)
    mean = math.prod(widths) / channels
    assert counts.min() == math.floor(mean)
    assert counts.max() == math.ceil(mean)
    assert conditions.paths(factors).level == conditions._counted(factors).level


@st.composite
def interleaved_chains(draw: st.DrawFn) -> tuple[Factor, ...]:
    """Interleaves with width changes anywhere; any shuffle behind leading channel-wise factors and behind the last."""
    width = draw(st.sampled_from([4, 6, 8, 12, 16]))
    factors: list[Factor] = []
    for _ in range(draw(st.integers(0, 2))):
        factors.append(Factor(width, width, groups=width, shuffle=draw(shuffles(width))))
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from(divisors(width)))
        out = draw(st.sampled_from(range(groups, 49, groups)))
        factors.append(Factor(width, out, groups=groups))
        width = out
    last = factors[-1]
    return (*factors[:-1], Factor(last.in_channels, width, groups=last.groups, shuffle=draw(shuffles(width))))


@given(interleaved_chains())
@settings(max_examples=400, deadline=None)
def test_closed_form_equals_counting_with_any_width_changes(factors: tuple[Factor, ...]) -> None:
    closed = conditions._interleaved(factors)
    assert closed is not None
    assert closed == conditions._counted(factors)


@pytest.mark.parametrize("branch_width", [2, 3, 4, 5, 6, 8, 12, 16])
def test_uniform_width_needs_ceil_log_factors(branch_width: int) -> None:
    for channels in range(branch_width, 300, branch_width):
        block = igcv2_uniform(channels, channels, branch_width=branch_width)
        n = len(block.steps) - 1
        assert branch_width**n >= channels
        assert n == 1 or branch_width ** (n - 1) < channels
        expected = "strict" if branch_width**n == channels else "nearly" if branch_width**n <= 2 * channels else "loose"
        assert block.report["complementary"] == expected


def test_uniform_transitions_leave_no_pair_out() -> None:
    block = igcv2_uniform(416, 832, branch_width=8, stride=2)
    assert path_counts(block.steps).min() >= 1
    assert path_counts(block.steps[:-1]).min() == 0


def test_one_path_is_weaker_than_strict_from_three_factors_on() -> None:
    # C = 8, K = (2, 2, 2): of 1080 one-path wirings 216 meet the cut condition (papers/igcv2.md 1.2). A wiring is told by
    # which branches of one factor feed which of the next, so pairings of 4 x 2 half-edges stand for permutations.
    total = strict = 0
    wirings = set()
    for quad in itertools.product(range(4), repeat=8):  # branch of the next factor that channel c goes to
        if all(quad.count(b) == 2 for b in range(4)):
            wirings.add(tuple(tuple(sorted(quad[2 * b : 2 * b + 2])) for b in range(4)))
    for first in wirings:
        reach_first = np.zeros((4, 8), dtype=int)
        for b, targets in enumerate(first):
            for target in targets:
                reach_first[target, 2 * b : 2 * b + 2] += 1
        if reach_first.max() > 1:
            continue
        for second in wirings:
            reach = np.zeros((4, 8), dtype=int)
            for b, targets in enumerate(second):
                for target in targets:
                    reach[target] += reach_first[b]
            if not (reach == 1).all():
                continue
            total += 1
            strict += conditions.is_strict(_wired(first, second))
    assert (total, strict) == (1080, 216)


def _wired(first: tuple[tuple[int, ...], ...], second: tuple[tuple[int, ...], ...]) -> tuple[Factor, ...]:
    def order(wiring: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
        slots: dict[int, list[int]] = {b: [] for b in range(4)}
        for branch, targets in enumerate(wiring):
            for position, target in enumerate(targets):
                slots[target].append(2 * branch + position)
        return tuple(channel for b in range(4) for channel in slots[b])

    return (
        Factor(8, 8, groups=4, shuffle=Shuffle("explicit", order=order(first))),
        Factor(8, 8, groups=4, shuffle=Shuffle("explicit", order=order(second))),
        Factor(8, 8, groups=4),
    )


def test_transitions_of_the_papers() -> None:
    strict = igcv2(64, 128, branch_widths=(8, 8), stride=2)
    assert strict.report["complementary"] == "strict"
    assert strict.report["weights"] == 3200
    twice = igcv2(64, 128, branch_widths=(8, 16), stride=2)
    assert twice.report["paths"] == {"min": 2, "max": 2, "mean": 2.0}
    assert twice.report["weights"] == 4224
    assert igcv1(48, 96, primary_groups=24, stride=2).report["complementary"] == "strict"


def test_levels_of_the_families() -> None:
    assert xception(24, 40).report["complementary"] == "strict"
    assert dense(8, 16).report["complementary"] == "strict"
    igc3 = igcv3(16, 16)
    assert igc3.report["complementary"] == "loose"
    assert igc3.report["paths"] == {"min": 24, "max": 24, "mean": 24.0}  # c * 6 / 4
    assert igcv3(16, 16, shuffle="identity").report["complementary"] == "none"  # half the pairs have no path


@pytest.mark.parametrize(
    ("branch_width", "n", "channels", "weights"),
    [(64, 1, 64, 4672), (12, 2, 144, 4752), (6, 3, 174, 4698), (4, 4, 184, 4600), (3, 5, 192, 4608), (2, 8, 186, 4650)],
)
def test_equal_budget_family_of_figure_3(branch_width: int, n: int, channels: int, weights: int) -> None:
    block = igcv2(channels, channels, branch_widths=(branch_width,) * n)
    assert block.report["weights"] == weights
    assert block.report["complementary"] == ("strict" if branch_width**n == channels else "nearly")


@given(products())
@settings(max_examples=100, deadline=None)
def test_no_product_joins_channels_for_less_than_e(steps: tuple[Factor | ChannelStep | Parallel, ...]) -> None:
    cost = conditions.mixing_cost(steps)
    # One output channel after another: what it reads, and its logarithm.
    reads = [f.area * f.branch_width for f in every_factor(steps) for _ in range(f.out_channels) if f.branch_width > 1]
    if not reads:
        assert cost is None
    else:
        assert cost == pytest.approx(sum(reads) / sum(map(math.log, reads)))
        assert cost >= math.e
        assert Block(steps).report["cost_per_nat_ratio"] == pytest.approx(cost / math.e)


def test_cost_per_nat_of_the_families() -> None:
    # Behind a channel-wise 3x3 the K / ln K of the fact sheet; n * K weights a channel for ln C nats.
    for widths, told in (((8, 8), 3.847), ((4, 4, 4), 2.885), ((2,) * 6, 2.885)):
        report = igcv2(64, 64, branch_widths=widths).report
        assert report["cost_per_nat"] == pytest.approx(theory.cost_per_nat(widths[0]))
        assert report["cost_per_nat"] == pytest.approx(sum(widths) / math.log(64))
        assert round(report["cost_per_nat"], 3) == told
    # IGCV1: a 3x3 of two channels reads 18 numbers; balanced terms of L* factors would be e each.
    assert igcv1(48, 48, primary_groups=24).report["cost_per_nat"] == pytest.approx(42 / math.log(18 * 24))
    assert Block((Factor(8, 8, 3, groups=8),)).report["cost_per_nat"] is None
    assert Block((Factor(8, 8, 3, groups=8),)).report["cost_per_nat_ratio"] is None


@given(products(lanes=False))
@settings(max_examples=100, deadline=None)
def test_no_one_path_product_undercuts_the_bound(steps: tuple[Factor, ...]) -> None:
    if math.prod(factor.branch_width for factor in steps) >= steps[0].in_channels:
        assert conditions.balance(steps) >= 1 - 1e-12


def test_balanced_products_meet_the_bound() -> None:
    assert conditions.balance((Factor(81, 81, 3, groups=81), *[Factor(81, 81, groups=9)] * 2)) == pytest.approx(1.0)


@given(st.integers(1, 120), st.integers(1, 4), st.integers(1, 4), st.integers(1, 40))
@settings(deadline=None)
def test_factorizations_are_all_tuples_of_that_product(width: int, n: int, smallest: int, largest: int) -> None:
    allowed = [d for d in divisors(width) if smallest <= d <= largest]
    expected = sorted(t for t in itertools.product(allowed, repeat=n) if math.prod(t) == width)
    assert factorizations(width, n, smallest=smallest, largest=largest) == expected


def test_a_width_without_factorization_names_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"width 59 has no factorization into 3 branch widths within \[4, 8\]; nearest widths: 64,"
    ):
        conditions.need_factorization(59, 3, smallest=4, largest=8)


# Rule: limits that cannot be are an error of their own, and what is named as nearest works with the same arguments.
def test_limits_of_factorizations() -> None:
    with pytest.raises(UsageError, match="-1 branch widths of at least 1"):
        factorizations(12, -1, smallest=1)
    with pytest.raises(UsageError, match="widths of at least 1"):
        factorizations(12, 2, smallest=0)
    with pytest.raises(UsageError, match=r"no branch width is within \[3, 2\]; give a largest of at least 3"):
        conditions.need_factorization(64, 2, smallest=3, largest=2)
    with pytest.raises(UsageError, match="nearest widths: 8, 12"):
        conditions.need_factorization(7, 3)
    assert factorizations(8, 3)
    assert factorizations(12, 3)


def test_is_group_convolution_rejects_unequal_and_overlapping_branches() -> None:
    assert conditions.is_group_convolution(np.kron(np.eye(2, dtype=int), np.ones((3, 2), dtype=int)))
    assert not conditions.is_group_convolution(np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1]]))
    assert not conditions.is_group_convolution(np.array([[1, 1, 0], [0, 1, 1]]))


def test_identity_shortcuts_do_not_count() -> None:
    plain, around = (igcv2(16, 16, branch_widths=(4, 4), residual=r) for r in (False, True))
    assert plain.report["paths"] == around.report["paths"]
    assert isinstance(around, Block)
    assert around.shortcut == ()


def test_a_block_may_stand_for_its_steps() -> None:
    from igcsearch.blocks import igcv2
    from igcsearch.spec.conditions import is_complementary, is_strict, level, mixing_cost, paths

    block = igcv2(16, 16, branch_widths=(4, 4))
    assert paths(block) == paths(block.steps)
    assert (path_counts(block) == 1).all()
    assert is_strict(block)
    assert is_complementary(block)
    assert level(block) == level(block.steps) == "strict"
    assert mixing_cost(block) == mixing_cost(block.steps)
    with pytest.raises(UsageError, match="a product is a block or a sequence of steps, not int"):
        paths(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        mixing_cost([])
    with pytest.raises(UsageError, match="given 8"):
        mixing_cost((Factor(8, 8), Factor(4, 4)))
