"""What definitions do with what they are given: each spelling of a number is one block, what is none is refused, options act."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from igcsearch.blocks import (
    FAMILIES,
    butterfly,
    dense,
    igcv1,
    igcv2,
    igcv2_grouped,
    igcv2_uniform,
    igcv3,
    mobilenet,
    mobilenetv2,
    monarch,
    network,
    resnet_basic,
    shufflenet,
    shufflenetv2,
    stage,
    stem,
)
from igcsearch.blocks.products import factor
from igcsearch.blocks.references import igcv1 as igcv1_networks
from igcsearch.blocks.references import igcv2 as igcv2_networks
from igcsearch.blocks.references import igcv3 as igcv3_networks
from igcsearch.blocks.references import resnets, shufflenets
from igcsearch.blocks.references.reference import CIFAR10
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Block, Factor, Parallel, Pool, Problem, Shuffle, SqueezeExcitation
from igcsearch.spec.numbers import nearest, truth, whole

OPTIONS: dict[str, dict[str, Any]] = {
    "igcv1": {"primary_groups": 4},
    "igcv2": {"branch_widths": (4, 4)},
    "igcv2_uniform": {"branch_width": 4},
    "igcv2_grouped": {"groups": (4, 4)},
    "shufflenet": {"groups": 2},
    "resnext": {"groups": 4},
}
DEFINITIONS = {**FAMILIES, "igcv2_uniform": igcv2_uniform, "igcv2_grouped": igcv2_grouped}
SHUFFLED = {
    "igcv1",
    "igcv2",
    "igcv2_uniform",
    "igcv2_grouped",
    "igcv3",
    "shufflenet",
    "shufflenetv2",
    "monarch",
    "butterfly",
}


def shuffles(block: Block) -> list[Shuffle]:
    return [step.shuffle for step in block.steps if isinstance(step, Factor | Parallel)]


# Rule: floats that equal ints are refused, before and after the ints were asked for, so no cache answers ints with floats.
@pytest.mark.parametrize("family", sorted(DEFINITIONS))
def test_a_float_is_no_width_and_leaves_nothing_in_a_cache(family: str) -> None:
    definition, options = DEFINITIONS[family], OPTIONS.get(family, {})
    for _ in range(2):
        with pytest.raises(UsageError, match=r"in_channels = 256\.0 must be a whole number; use 256"):
            definition(256.0, 256, stride=1, **options)
        made = network(Problem(16, 3, 10), 256, [stage(definition, 256, 256, 1, **options)])
        assert definition(256, 256, stride=1, **options) is made.stages[0].blocks[0]
        assert Architecture.from_json(made.to_json()).hash == made.hash
        assert type(made.params) is int


@pytest.mark.parametrize("make", [factor, stem, Factor])
def test_a_float_is_no_width_of_a_factor_either(make: Callable[..., object]) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match=r"of a factor = 7\.0 must be a whole number; use 7"):
            make(7, 7.0)
        make(7, 7)


@pytest.mark.parametrize("family", sorted(DEFINITIONS))
def test_numpys_numbers_and_lists_give_the_same_object(family: str) -> None:
    definition, options = DEFINITIONS[family], OPTIONS.get(family, {})
    spelled = {
        name: np.int64(value) if isinstance(value, int) else [np.int32(item) for item in value]
        for name, value in options.items()
    }
    made = definition(np.int64(64), np.int64(64), stride=np.int16(2), residual=np.False_, **spelled)
    assert made is definition(64, 64, stride=2, residual=False, **options)
    assert {type(step.in_channels) for step in made.steps} == {int}


@pytest.mark.parametrize("family", sorted(DEFINITIONS))
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stride": 1.5}, r"stride = 1\.5 must be a whole number; use 1 or 2"),
        ({"stride": "2"}, "stride = '2' must be a whole number"),
        ({"stride": None}, "stride = None must be a whole number"),
        ({"activation": 3}, "unknown activation 3"),
        ({"activation": {}}, "activation = {} cannot be an option"),
        ({"residual": "yes"}, "residual = 'yes' must be True or False"),
    ],
)
def test_bad_shared_options_are_one_line(family: str, option: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DEFINITIONS[family](16, 16, **(OPTIONS.get(family, {}) | option))


# Rule: shuffle and seed act where a shuffle says something, and change nothing elsewhere.
@pytest.mark.parametrize("family", sorted(DEFINITIONS))
def test_the_shuffle_options_act(family: str) -> None:
    definition, options = DEFINITIONS[family], OPTIONS.get(family, {})
    plain = definition(16, 16, **options)
    drawn = definition(16, 16, shuffle="random", shuffle_seed=3, **options)
    if family not in SHUFFLED:
        assert drawn == plain
        return
    wanted = shuffles(drawn)
    assert wanted.count(Shuffle("random", seed=3)) == 1
    assert [other for other in wanted if other.kind != "random"] == [
        other for other, new in zip(shuffles(plain), wanted, strict=True) if new.kind != "random"
    ]
    assert Shuffle("random", seed=4) in shuffles(definition(16, 16, shuffle="random", shuffle_seed=4, **options))
    assert Shuffle("learned") in shuffles(definition(16, 16, shuffle="learned", **options))
    with pytest.raises(UsageError, match="unknown shuffle None"):
        definition(16, 16, shuffle=None, **options)


# Rule: residual adds the identity where the shape stays; at a transition a projection, but for the families that have none there.
@pytest.mark.parametrize("family", sorted(set(DEFINITIONS) - {"shufflenetv2"}))
def test_residual_acts(family: str) -> None:
    definition, options = DEFINITIONS[family], OPTIONS.get(family, {})
    assert definition(16, 16, residual=True, **options).shortcut == ()
    assert definition(16, 16, residual=False, **options).shortcut is None
    around = definition(16, 32, stride=2, residual=True, **options).shortcut
    if family in ("igcv3", "mobilenetv2", "shufflenet"):
        assert around is None
    else:
        (projection,) = around or ()
        assert (projection.in_channels, projection.out_channels, projection.stride) == (16, 32, 2)


# Rule: bad numbers of a family are one line with the rule and what works.
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: igcv3(16, 16, groups=(0, 2)), r"groups \(0, 2\): give two numbers of at least 1"),
        (lambda: igcv3(16, 16, groups=(2, 0)), r"groups \(2, 0\): give two numbers"),
        (lambda: igcv3(16, 16, groups=(2,)), r"groups \(2,\): give two numbers"),
        (lambda: igcv3(16, 16, groups=(2, 2, 2)), r"groups \(2, 2, 2\): give two numbers"),
        (lambda: igcv3(16, 16, groups=2), "groups = 2 must be a tuple of whole numbers"),  # type: ignore[arg-type]
        (lambda: igcv3(16, 16, expansion=0), "igcv3 with expansion 0: it must be at least 1"),
        (lambda: igcv3(15, 15), "nearest widths: 14, 16"),
        (lambda: igcv3(15, 16), "nearest in_channels: 14, 16$"),
        (lambda: igcv3(16, 15), "nearest out_channels: 14, 16$"),
        (lambda: igcv2(16, 16, branch_widths=(4, 4), spatial_branch_width=0), "branch widths that do: 1, 2, 4, 8, 16"),
        (lambda: igcv2(0, 16, branch_widths=(4,)), "in_channels = 0 of a block must be at least 1"),
        (lambda: igcv2(16, 16, branch_widths=(5, 4)), "nearest branch widths: 4, 2"),
        (lambda: igcv2(16, 16, branch_widths=(4.5, 4)), r"an item of branch_widths = 4\.5 must be a whole number"),  # type: ignore[arg-type]
        (lambda: igcv1(0, 16, primary_groups=4), "in_channels = 0"),
        (lambda: igcv1(16, 18, primary_groups=4), "nearest out_channels: 16, 20; nearest primary groups: 2, 1"),
        (lambda: igcv1(18, 18, primary_groups=4), "nearest widths: 16, 20"),
        (lambda: igcv2_uniform(0, 16, branch_width=4), "in_channels = 0"),
        (
            lambda: igcv2_uniform(16, 16, branch_width=1),
            "uniform branch width 1 mixes no channels: it must be at least 2$",
        ),
        (lambda: igcv2_uniform(16, 16, branch_width=-2), "must be at least 2$"),
        (lambda: igcv2_uniform(16, 16, branch_width=17), "nearest widths: 17, 34"),
        (lambda: igcv2_grouped(18, 32, groups=(4, 8)), "nearest in_channels: 16, 20; group counts"),
        (lambda: monarch(44, 48, groups=3), "nearest in_channels: 45, 42; groups that do: 1, 2, 4"),
        (lambda: shufflenetv2(16, 0), "nearest widths: 2, 4"),
        (lambda: shufflenetv2(16, -16), "nearest widths: 2, 4"),
        (lambda: shufflenet(16, 18, groups=1, residual=False), "the middle must be whole.*nearest widths: 16, 20"),
        (lambda: butterfly(48, 16), "nearest in_channels: 32, 64"),
        (lambda: mobilenetv2(8, 8, expansion=1.5), r"expansion = 1\.5"),  # type: ignore[arg-type]
        (lambda: resnet_basic(16, 16, squeeze=4.0), r"squeeze = 4\.0 must be a whole number; use 4"),  # type: ignore[arg-type]
        (lambda: stem(3, 16.0), r"out_channels of a factor = 16\.0"),  # type: ignore[arg-type]
        (lambda: stage(mobilenet, 8, 8, 0), "repeats = 0 of a stage must be at least 1"),
        (lambda: stage(mobilenet, 8, 8, -3), "repeats = -3"),
        (lambda: Pool(8, kernel_size=3.0), r"kernel_size of a step = 3\.0"),  # type: ignore[arg-type]
        (lambda: SqueezeExcitation(8, 2.5), r"reduced of a step = 2\.5 must be a whole number; use 2 or 3"),  # type: ignore[arg-type]
        (lambda: Factor(8, 8, groups=2.0), r"groups of a factor = 2\.0"),  # type: ignore[arg-type]
        (lambda: Factor(8, 8, norm="yes"), "norm of a factor = 'yes' must be True or False"),  # type: ignore[arg-type]
    ],
)
def test_bad_numbers_name_rule_and_cure(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


# Rule: a network of a table at a size that it does not have names the nearest; none is rounded to another.
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: igcv1_networks.plain(CIFAR10, 24, 2, 21), "depth 21 is not 2 [+] 3 .*; nearest depths: 20, 23"),
        (lambda: igcv1_networks.plain(CIFAR10, 24, 2, 2), "nearest depths: 5, 8"),
        (lambda: igcv1_networks.residual(CIFAR10, 24, 2, 24), "nearest depths: 26, 20"),
        (lambda: igcv2_networks.star(depth=24), "nearest depths: 26, 20"),
        (lambda: igcv2_networks.star(depth=0), "nearest depths: 8, 14"),
        (lambda: igcv2_networks.star(projected=True, old_width=True), "not both"),
        (lambda: resnets.cifar(21), "nearest depths: 20, 26"),
        (lambda: igcv2_networks.figure_3(3, blocks=0), "blocks = 0 a stage must be at least 1"),
        (lambda: shufflenets.shufflenet_v1(4, 1.0), "nearest: 3 groups with 1.0 and 3 groups with 0.5"),
        (lambda: shufflenets.shufflenet_v2(0.75), "multiplier 0.75 is known here; nearest: 0.5, 1.0"),
        (lambda: igcv3_networks.igcv3_d(multiplier=0.7), "at multiplier 0.7 .* nearest multipliers: "),
    ],
)
def test_networks_of_no_table(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_the_multipliers_that_are_named_work() -> None:
    with pytest.raises(UsageError) as told:
        igcv3_networks.igcv3_d(multiplier=0.7)
    found = re.findall(r"\d\.\d+", str(told.value).partition("multipliers:")[2])
    assert len(found) == 2
    for multiplier in found:
        igcv3_networks.igcv3_d(multiplier=float(multiplier))


def test_whole_and_truth() -> None:
    assert type(whole(np.int8(3), "n")) is int
    assert truth(np.True_, "flag") is True
    with pytest.raises(UsageError, match=r"n = nan must be a whole number$"):
        whole(float("nan"), "n")
    with pytest.raises(UsageError, match="must be True or False"):
        truth(np.zeros(2), "flag")
    assert nearest(10, lambda n: n % 7 == 0) == "7, 14"
    assert nearest(10, lambda n: n % 2 == 0) == "10, 8"
    assert nearest(10, lambda n: False) == "none"
    assert nearest(3, lambda n: n % 2 == 0, smallest=3) == "4, 6"
    assert nearest(-16, lambda n: n % 2 == 0, smallest=2) == "2, 4"


def test_shuffles_and_problems_are_normalised() -> None:
    order = Shuffle("explicit", order=np.array([1, 0]))  # type: ignore[arg-type]
    assert order == Shuffle("explicit", order=(1, 0))
    assert [type(channel) for channel in order.order or ()] == [int, int]
    assert type(Shuffle("random", seed=np.int64(3)).seed) is int  # type: ignore[arg-type]
    made = network(Problem(np.int64(16), 3, 10), 8, [stage(dense, 8, 8, 1)])  # type: ignore[arg-type]
    assert made.hash == network(Problem(16, 3, 10), 8, [stage(dense, 8, 8, 1)]).hash
    for wrong in ({"num_classes": 0}, {"num_classes": 2.5}, {"image_size": 32.5}, {"in_channels": 0}):
        with pytest.raises(UsageError, match=r"0 classes|num_classes = 2\.5|image_size = 32\.5|0 input channels"):
            made.with_(**wrong)  # type: ignore[arg-type]
