"""Block definitions: their structure as the papers draw it, exact counts, levels, and what they refuse."""

from collections.abc import Callable

import numpy as np
import pytest

from igcsearch.blocks import (
    FAMILIES,
    butterfly,
    igcv2,
    igcv2_grouped,
    mobilenet,
    mobilenetv2,
    monarch,
    network,
    resnet_basic,
    resnet_bottleneck,
    resnext,
    shufflenet,
    shufflenetv2,
    stage,
    xception,
)
from igcsearch.blocks.products import unit
from igcsearch.errors import UsageError
from igcsearch.spec import Block, Factor, NormAct, Parallel, Pool, Problem, Shuffle, SqueezeExcitation
from igcsearch.spec.block import every_factor
from igcsearch.spec.conditions import path_counts

OPTIONS: dict[str, dict[str, object]] = {
    "igcv1": {"primary_groups": 4},
    "igcv2": {"branch_widths": (4, 4)},
    "shufflenet": {"groups": 2},
    "resnext": {"groups": 4},
}


def shape(block: Block) -> list[tuple[int, int, int, int, int]]:
    """(in, out, kernel, groups, stride) of every factor, those in lanes included, in order."""
    return [(f.in_channels, f.out_channels, f.kernel_size, f.groups, f.stride) for f in every_factor(block.steps)]


# Rule: equal arguments give the identical object; all take the shared options; the name is in the block.
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_definition_is_memoised_and_takes_the_shared_options(family: str) -> None:
    shared = {"stride": 1, "residual": False, "activation": "silu", "shuffle": "random", "shuffle_seed": 3}
    options = OPTIONS.get(family, {}) | shared
    block = FAMILIES[family](16, 16, **options)
    assert block is FAMILIES[family](16, 16, **options)
    assert block.family == family
    assert (block.in_channels, block.out_channels, block.stride) == (16, 16, 1)
    used = {step.activation for step in every_factor(block.steps)} | {block.activation}
    assert used <= {"silu", None}
    assert "silu" in used
    assert FAMILIES[family](16, 32, **(options | {"stride": 2})).stride == 2


def test_mobilenet() -> None:
    block = mobilenet(32, 64, stride=2)
    assert shape(block) == [(32, 32, 3, 32, 2), (32, 64, 1, 1, 1)]
    assert [(step.norm, step.activation) for step in block.factors] == [(True, "relu"), (True, None)]
    assert (block.activation, block.shortcut) == ("relu", None)
    assert block.params == 9 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert block.report["complementary"] == "strict"
    assert [f.weights for f in block.factors] == [f.weights for f in xception(32, 64, stride=2).factors]


def test_mobilenetv2() -> None:
    block = mobilenetv2(24, 24)
    assert shape(block) == [(24, 144, 1, 1, 1), (144, 144, 3, 144, 1), (144, 24, 1, 1, 1)]
    assert [(step.norm, step.activation) for step in block.factors] == [(True, "relu6"), (True, "relu6"), (True, None)]
    assert (block.shortcut, block.activation) == ((), None)
    assert block.report["paths"] == {"min": 144, "max": 144, "mean": 144.0}
    assert mobilenetv2(24, 32).shortcut is None
    assert mobilenetv2(24, 24, stride=2).shortcut is None
    assert shape(mobilenetv2(32, 16, expansion=1)) == [(32, 32, 3, 32, 1), (32, 16, 1, 1, 1)]


def test_shufflenet() -> None:
    block = shufflenet(240, 240, groups=3)
    assert shape(block) == [(240, 60, 1, 3, 1), (60, 60, 3, 60, 1), (60, 240, 1, 3, 1)]
    assert [(step.norm, step.activation) for step in block.factors] == [(True, "relu"), (True, None), (True, None)]
    assert (block.shortcut, block.activation) == ((), "relu")
    # `igcv2.md` 5: C = 240, g = 3, bottleneck 60 has 6 or 7 paths a pair
    assert {block.report["paths"]["min"], block.report["paths"]["max"]} == {6, 7}
    down = shufflenet(240, 480, groups=3, stride=2)
    (lanes,) = down.steps
    assert isinstance(lanes, Parallel)
    assert lanes.lanes[0] == (Pool(240, "avg", 3, 2),)
    assert (lanes.join, lanes.split, lanes.lane_outputs) == ("concat", None, (240, 240))
    assert (down.shortcut, down.activation, down.stride) == (None, "relu", 2)
    first = shufflenet(24, 240, groups=3, first_groups=1, stride=2)
    assert shape(first) == [(24, 60, 1, 1, 1), (60, 60, 3, 60, 2), (60, 216, 1, 3, 1)]
    assert shufflenet(24, 24, groups=2, stride=2).shortcut == (Pool(24, "avg", 3, 2),)
    wider = shufflenet(24, 48, groups=2).steps[0]
    assert isinstance(wider, Parallel)
    assert wider.lanes[0] == ()
    assert shufflenet(24, 16, groups=2, residual=False).out_channels == 16


def test_shufflenetv2() -> None:
    (lanes,) = shufflenetv2(116, 116).steps
    assert isinstance(lanes, Parallel)
    assert (lanes.split, lanes.lanes[0], lanes.shuffle) == ((58, 58), (), Shuffle())
    assert shape(shufflenetv2(116, 116)) == [(58, 58, 1, 1, 1), (58, 58, 3, 58, 1), (58, 58, 1, 1, 1)]
    down = shufflenetv2(24, 116, stride=2)
    passing = [(24, 24, 3, 24, 2), (24, 58, 1, 1, 1)]
    assert shape(down) == [*passing, (24, 58, 1, 1, 1), (58, 58, 3, 58, 2), (58, 58, 1, 1, 1)]
    assert [f.activation for f in every_factor(down.steps)] == [None, "relu", "relu", None, "relu"]
    # behind a unit the channels of both lanes take turns: more pairs meet with every unit, but channel 0 passes through all
    one = path_counts(shufflenetv2(8, 8).steps)
    counts = [np.linalg.matrix_power(one, units) for units in range(1, 6)]
    met = [int((count > 0).sum()) for count in counts]
    assert met == sorted(met)
    assert met[0] < met[1]
    assert all(count[0].tolist() == [1] + 7 * [0] for count in counts)
    assert (path_counts((*shufflenetv2(8, 8).steps, *shufflenetv2(8, 8, stride=2).steps)) > 0).all()


def test_resnets() -> None:
    basic = resnet_basic(64, 128, stride=2)
    assert shape(basic) == [(64, 128, 3, 1, 2), (128, 128, 3, 1, 1)]
    assert basic.shortcut == (Factor(64, 128, stride=2, norm=True),)
    assert [(step.norm, step.activation) for step in basic.factors] == [(True, "relu"), (True, None)]
    assert basic.activation == "relu"
    assert basic.params == 9 * 64 * 128 + 9 * 128 * 128 + 64 * 128 + 3 * 256
    narrow = resnet_bottleneck(256, 512, stride=2)
    assert shape(narrow) == [(256, 128, 1, 1, 1), (128, 128, 3, 1, 2), (128, 512, 1, 1, 1)]
    grouped = resnext(256, 256)
    assert shape(grouped) == [(256, 128, 1, 1, 1), (128, 128, 3, 32, 1), (128, 256, 1, 1, 1)]
    assert (grouped.shortcut, grouped.report["paths"]["max"]) == ((), 128 * 4)
    assert all((f.order == np.arange(f.out_channels)).all() for f in grouped.factors)


def test_pre_activation_and_squeeze_excitation() -> None:
    before = resnet_basic(16, 16, preactivation=True, squeeze=4)
    assert before.steps[0] == NormAct(16, norm=True, activation="relu")
    assert before.steps[-1] == SqueezeExcitation(16, 4)
    assert (before.activation, before.shortcut) == (None, ())
    assert [(step.norm, step.activation) for step in before.factors] == [(True, "relu"), (False, None)]
    assert before.params == resnet_basic(16, 16).params + (2 * 16 * 4 + 4 + 16)  # a norm moves, none is added
    # a norm on what comes in, none behind the last kernel and the projection
    wider = resnext(16, 32, groups=4, preactivation=True)
    assert wider.shortcut == (Factor(16, 32),)
    assert wider.params == resnext(16, 32, groups=4).params + 2 * (16 - 32 - 32)
    assert resnet_bottleneck(8, 16, preactivation=True).params == resnet_bottleneck(8, 16).params + 2 * (8 - 16 - 16)


def test_what_pre_activation_leaves_to_the_head() -> None:
    last = NormAct(16, norm=True, activation="relu")
    stages = [stage(resnet_basic, 16, 16, 2, preactivation=True)]
    made = network(Problem(16, 3, 10), 16, stages, head_steps=(last,))
    assert made.head.steps == (last,)
    assert made.params == network(Problem(16, 3, 10), 16, stages).params + 2 * 16
    wide = network(Problem(16, 3, 10), 16, stages, head_steps=(last,), head_width=64)
    assert wide.head.steps == (last, Factor(16, 64, norm=True, activation="relu"))


def test_monarch_is_two_block_diagonal_factors() -> None:
    square = monarch(16, 16)
    assert shape(square) == [(16, 16, 3, 16, 1), (16, 16, 1, 4, 1), (16, 16, 1, 4, 1)]
    assert square.report["complementary"] == "strict"  # 4 blocks of 4 on 16 channels
    assert square.key_text == igcv2(16, 16, branch_widths=(4, 4)).key_text
    assert monarch(64, 64).report["paths"]["mean"] == 4.0
    assert monarch(8, 8).report["complementary"] == "none"
    assert [(f.in_channels, f.out_channels) for f in monarch(16, 32).factors] == [(16, 16), (16, 16), (16, 32)]
    assert [(f.in_channels, f.out_channels) for f in monarch(32, 16).factors] == [(32, 32), (32, 16), (16, 16)]


@pytest.mark.parametrize(("base", "width", "count"), [(2, 32, 5), (3, 27, 3), (4, 64, 3), (8, 8, 1)])
def test_butterfly_is_strict_with_log_factors(base: int, width: int, count: int) -> None:
    for out in (width, 2 * width):
        block = butterfly(width, out, base=base)
        assert len(block.factors) == 1 + count
        assert {f.branch_width for f in block.factors[1:]} == {base}
        assert block.report["complementary"] == "strict"
        assert (path_counts(block.steps) == 1).all()
        assert block.report["weights"] == out * (9 + base * count)


def test_butterfly_mixes_one_digit_a_factor() -> None:
    # The dense product of a butterfly: factor i pairs channels whose numbers differ in digit i alone.
    block = butterfly(8, 8)
    before = np.eye(8, dtype=np.int64)
    for i, step in enumerate(block.factors[1:]):
        before = path_counts((step,)) @ before
        reached = {out: frozenset(np.flatnonzero(row)) for out, row in enumerate(before)}
        assert {len(inputs) for inputs in reached.values()} == {2 ** (i + 1)}
        for inputs in reached.values():
            assert {a ^ b for a in inputs for b in inputs} == set(range(2 ** (i + 1)))
    order = np.arange(8)
    for step in block.factors[1:]:
        order = order[step.order]
    assert (order == np.arange(8)).all()  # back in the first order, where a shortcut meets it


def test_igcv2_by_group_counts() -> None:
    block = igcv2_grouped(32, 64, groups=(4, 2), stride=2)
    assert shape(block) == [(32, 32, 3, 32, 2), (32, 64, 1, 4, 1), (64, 64, 1, 2, 1)]
    assert [step.norm for step in block.factors] == [False, False, True]
    for width in (64, 128, 256):
        assert igcv2_grouped(width, width, groups=(8, 8)).report["paths"]["mean"] == width / 64
    assert igcv2_grouped(64, 64, groups=(8, 8)).key_text == igcv2(64, 64, branch_widths=(8, 8)).key_text


def test_two_blocks_as_one_unit() -> None:
    first, second = mobilenet(8, 12, stride=2), mobilenet(12, 12, activation=None)
    both = unit(first, second, activation="relu")
    assert shape(both) == shape(first) + shape(second)
    assert [f.activation for f in both.factors] == ["relu", "relu", None, None]
    assert both.shortcut == (Factor(8, 12, groups=4, stride=2, norm=True),)
    assert unit(mobilenet(8, 8), mobilenet(8, 8, activation=None)).shortcut == ()
    with pytest.raises(UsageError, match="two plain products"):
        unit(mobilenet(8, 8, residual=True), second)
    with pytest.raises(UsageError, match="has relu behind it, in front of the sum; make it with activation=None"):
        unit(first, mobilenet(12, 12))
    assert unit(first, second, residual=False).shortcut is None


# Rule: what cannot be is refused with the rule and the nearest that works, and that does work.
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mobilenetv2(8, 8, expansion=0), "expansion 0: it must be at least 1"),
        (
            lambda: shufflenet(240, 240, groups=7),
            "nearest widths: 252, 224; groups at this width: 1, 2, 3, 4, 5, 6, 10, 12",
        ),
        (lambda: shufflenet(24, 240, groups=5), "groups divide what their 1x1 convolutions read and write"),
        (lambda: shufflenet(32, 16, groups=2), "use at least 32, or residual=False"),
        (lambda: shufflenet(16, 16, groups=2, bottleneck=0), "groups at this width: none"),
        (lambda: shufflenetv2(16, 33), "the width must be even; nearest widths: 32, 34"),
        (lambda: resnet_bottleneck(64, 130), "nearest widths: 128, 132"),
        (lambda: resnet_bottleneck(64, 128, reduction=0), "the reduction must divide"),
        (lambda: resnext(64, 100), "nearest widths: 128, 64; groups at this width: 1, 2, 5, 10, 25, 50"),
        (lambda: resnet_basic(8, 8, squeeze=9), "use a number from 1 to 8"),
        (lambda: monarch(30, 30), "nearest widths: 28, 32; groups that do: 1, 2, 3, 5, 6, 10, 15, 30"),
        (lambda: monarch(16, 16, groups=0), "nearest widths: none"),
        (lambda: butterfly(48, 48, base=4), "power of 4, not 48; nearest widths: 16, 64"),
        (lambda: butterfly(3, 3, base=4), "nearest widths: 4, 16"),
        (lambda: butterfly(16, 40), "nearest out_channels: 32, 48"),
        (lambda: butterfly(16, 16, base=1), "a base must be at least 2"),
        (lambda: igcv2_grouped(16, 32, groups=(3, 2)), "group counts of factor 1 that do: 1, 2, 4, 8, 16"),
        (lambda: igcv2_grouped(16, 32, groups=(4, 5)), "group counts of factor 2 that do: 1, 2, 4, 8, 16, 32"),
        (lambda: igcv2_grouped(16, 32, groups=()), "needs at least one 1x1 factor"),
        (lambda: mobilenet(8, 8, stride=0), "stride = 0 of a factor must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], Block], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_nearest_widths_work() -> None:
    for width in (252, 224):
        shufflenet(width, width, groups=7)
    for width in (128, 64):
        resnext(64, width)
    for groups in (1, 2, 5, 10, 25, 50):
        resnext(64, 100, groups=groups)


def test_problem_of_a_family_in_a_network() -> None:
    stages = [stage(butterfly, 16, 16, 2, base=4), stage(shufflenetv2, 16, 32, 2, stride=2)]
    made = network(Problem(16, 3, 10), 16, stages)
    assert made.family == "butterfly+shufflenetv2"
