"""Steps that leave channels in their places: data, errors, conditions, equivalence, cost, what is learned around them."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.blocks import stem
from igcsearch.errors import UsageError
from igcsearch.spec import (
    Architecture,
    Block,
    ChannelStep,
    Factor,
    Head,
    NormAct,
    Parallel,
    Pool,
    Shuffle,
    SqueezeExcitation,
    Stage,
    StagedArchitecture,
)
from igcsearch.spec.conditions import is_strict, path_counts, paths
from igcsearch.spec.learning import gaps, hardened, opened
from igcsearch.spec.parts import FEATURES, Part
from igcsearch.spec.serialise import parse_step, step_data

STEPS = [
    NormAct(12, norm=True),
    NormAct(12, activation="relu"),
    NormAct(12, norm=True, activation="silu"),
    SqueezeExcitation(12, 3),
    SqueezeExcitation(12, 5, "hardswish", "hardsigmoid"),
    Pool(12, "avg", 3, 1),
]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_json_round_trip_leaves_defaults_out(step: ChannelStep) -> None:
    data = step_data(step)
    assert parse_step(json.loads(json.dumps(data)), "step") == step
    defaults = {name: field.default for name, field in step.__dataclass_fields__.items()}
    assert all(value != defaults.get(name, ...) for name, value in data.items() if name != "op")


def test_what_a_document_looks_like() -> None:
    assert step_data(NormAct(12, norm=True, activation="relu")) == {
        "op": "norm_act",
        "channels": 12,
        "norm": True,
        "activation": "relu",
    }
    assert step_data(SqueezeExcitation(12, 3)) == {"op": "squeeze_excitation", "channels": 12, "reduced": 3}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"op": "norm_act", "channels": 12}, "without norm and activation does nothing; give"),
        ({"op": "norm_act", "channels": 0, "norm": True}, "channels = 0 of a step must be at least 1"),
        (
            {"op": "norm_act", "channels": 12, "activation": "rellu"},
            r"unknown activation 'rellu' \(did you mean 'relu'",
        ),
        ({"op": "norm_act", "channels": 12, "norms": True}, r"unknown field 'norms' \(did you mean 'norm'\?\)"),
        ({"op": "norm_act", "norm": True}, "channels"),
        ({"op": "squeeze_excitation", "channels": 12}, "reduced"),
        (
            {"op": "squeeze_excitation", "channels": 12, "reduced": 0},
            "reduced = 0 of a squeeze-excitation on 12 channels",
        ),
        (
            {"op": "squeeze_excitation", "channels": 12, "reduced": 3, "gate": "sigmoids"},
            r"unknown gate 'sigmoids' \(did you mean 'sigmoid'",
        ),
        ({"op": "squeeze_excitation", "channels": 12, "reduced": 3, "activation": None}, "expected str, found None"),
        (
            {"op": "squeeze_exitation", "channels": 12},
            r"unknown operation 'squeeze_exitation' \(did you mean 'squeeze_excit",
        ),
        ({"op": "pool", "channels": 12, "stride": 0}, "stride 0 of a pooling must be at least 1"),
    ],
)
def test_bad_steps_are_refused_with_rule_and_place(data: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_step(data, "architecture.stem.steps[0]")
    assert str(caught.value).startswith("architecture.stem.steps[0]")


def test_a_squeeze_excitation_needs_an_activation() -> None:
    with pytest.raises(UsageError, match="needs an activation between its two layers; known: relu"):
        SqueezeExcitation(12, 3, activation=None)  # type: ignore[arg-type]


# Rule: new steps change no hash. The folders of the published networks end in theirs.
def test_committed_architectures_keep_their_hashes(root: Path) -> None:
    files = sorted((root / "results").glob("*/architecture.json"))
    assert files
    for file in files:
        architecture = Architecture.from_json(file.read_text())
        assert file.parent.name.endswith(f"-{architecture.hash}")
        assert Architecture.from_json(architecture.to_json()).hash == architecture.hash


def test_cost_in_closed_form() -> None:
    assert [step.params for step in STEPS] == [24, 0, 24, 2 * 12 * 3 + 3 + 12, 2 * 12 * 5 + 5 + 12, 0]
    assert [step.macs_at(7) for step in STEPS] == [0, 0, 0, 72, 120, 0]  # of a squeeze-excitation at any size
    assert [step.out_size(7) for step in STEPS] == [7] * 6
    assert Pool(12).out_size(7) == 4


# Rule: what is added or laid side by side has maps of one side; even poolings can make it otherwise, on some sizes alone.
def test_lanes_and_shortcuts_that_end_at_different_sides_are_refused() -> None:
    lanes = Block((Parallel(((Pool(8, "max", 2, 2),), (Factor(8, 8, 3, groups=8, stride=2),)), 8),))
    around = Block((Factor(8, 8), Pool(8, "avg", 2, 1)), shortcut=())
    wide = Block((Factor(8, 8), Pool(8, "avg", 4, 1)), shortcut=())
    assert lanes.cost_at(8)[1] == 4
    for block, size, message in (
        (lanes, 7, r"side 7 leaves the lanes with sides \[3, 4\]; they must agree: give the poolings odd kernel sizes"),
        (around, 8, "side 8 leaves the shortcut with side 8, the product with 7"),
        (wide, 4, "side 4 leaves the shortcut with side 4, the product with 3"),
    ):
        with pytest.raises(UsageError, match=message):
            StagedArchitecture(3, size, 5, stem(3, 8), (Stage((block,)),))


# Rule: a lane reads something, and an interleave behind lanes has a table of one row a lane.
def test_lanes_that_cannot_be() -> None:
    for split in ((9, -1), (8, 0)):
        with pytest.raises(UsageError, match="must have one width of at least 1 a lane"):
            Parallel(((), ()), 8, split=split)
    uneven = ((Factor(8, 3),), (Factor(8, 4),))
    for kind in ("interleave", "learned"):
        with pytest.raises(UsageError, match=r"behind 2 lanes needs .* not 7 \(lanes of \[3, 4\]\)"):
            Parallel(uneven, 8, shuffle=Shuffle(kind))
    assert Parallel(uneven, 8).out_channels == 7


def test_an_operation_is_a_string() -> None:
    with pytest.raises(UsageError, match=r"step\.op: expected str, found \['pool'\]"):
        parse_step({"op": ["pool"], "channels": 8}, "step")
    block = Block((NormAct(12, norm=True), Factor(12, 8), SqueezeExcitation(8, 2)), shortcut=(Factor(12, 8),))
    assert block.cost_at(5) == ((24 + 96 + 32 + 10 + 96, (96 + 96) * 25 + 32), 5)


def test_steps_of_other_widths_do_not_meet() -> None:
    with pytest.raises(UsageError, match="step 2 of a block reads 12 channels but is given 16"):
        Block((Factor(12, 16), NormAct(12, norm=True)))


@st.composite
def products(draw: st.DrawFn) -> tuple[tuple[Factor, ...], tuple[Factor | ChannelStep, ...]]:
    """A product of factors, and the same with channel steps anywhere in it."""
    factors, mixed = [], []
    for _ in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
        factor = Factor(12, 12, groups=groups, shuffle=draw(st.sampled_from([Shuffle(), Shuffle("identity")])))
        mixed += [*draw(st.lists(st.sampled_from(STEPS), max_size=2)), factor]
        factors.append(factor)
    return tuple(factors), (*mixed, *draw(st.lists(st.sampled_from(STEPS), max_size=2)))


# Rule: conditions see an identity in every channel step.
@given(products())
def test_conditions_do_not_see_them(both: tuple[tuple[Factor, ...], tuple[Factor | ChannelStep, ...]]) -> None:
    factors, mixed = both
    np.testing.assert_array_equal(path_counts(mixed), path_counts(factors))
    assert paths(mixed) == paths(factors)
    assert (paths(mixed).level == "strict") == is_strict(factors)
    counts = path_counts(factors)  # the closed form, where a dense factor follows other shuffles too
    assert (paths(factors).smallest, paths(factors).largest) == (counts.min(), counts.max())


def test_a_block_of_channel_steps_alone() -> None:
    report = Block((NormAct(12, norm=True), SqueezeExcitation(12, 3))).report
    assert (report["complementary"], report["paths"]["max"], report["balance"]) == ("none", 1, None)
    assert Block((Factor(12, 12), NormAct(12, norm=True))).report["balance"] == pytest.approx(1.0)


def explicit(order: Sequence[int]) -> Shuffle:
    return Shuffle("explicit", order=tuple(order))


def around(*steps: Factor | ChannelStep, shortcut: tuple[()] | None = None) -> Architecture:
    """Those steps between a dense stem and a group convolution."""
    blocks = (Block(steps, shortcut=shortcut), Block((Factor(12, 12, groups=3),)))
    return StagedArchitecture(3, 8, 10, Block((Factor(3, 12, 3),)), (Stage(blocks),))


# Rule: a relabelling of channels goes through channel steps, their own weights follow.
@pytest.mark.parametrize("between", [(step,) for step in STEPS] + [tuple(STEPS)], ids=len)
def test_keys_see_through_them(between: tuple[ChannelStep, ...]) -> None:
    rng = random.Random(0)
    orders = [rng.sample(range(12), 12) for _ in range(2)]

    def pair(order: Sequence[int], groups: int) -> Architecture:
        return around(Factor(12, 12, groups=4, shuffle=explicit(order)), *between, Factor(12, 12, groups=groups))

    assert pair(orders[0], 1).key == pair(orders[1], 1).key  # what is dense behind them absorbs any order
    assert (
        pair(range(12), 2).key
        != around(Factor(12, 12, groups=4, shuffle=explicit(range(12))), Factor(12, 12, groups=2)).key
    )
    within = [1, 2, 0, *range(3, 12)]  # other names within a branch of three
    assert pair(within, 2).key == pair(range(12), 2).key
    across = [6, 1, 2, 3, 4, 5, 0, *range(7, 12)]  # one channel of each branch behind changes places
    assert pair(across, 2).key != pair(range(12), 2).key


def test_what_a_step_does_is_in_the_key() -> None:
    keys = {around(Factor(12, 12, groups=4), *steps).key for steps in [(), *((step,) for step in STEPS)]}
    assert len(keys) == len(STEPS) + 1


# Rule: reasoning about learned shuffles takes a channel step for one that channels pass alone.
def test_learned_shuffles_around_them() -> None:
    learned = Shuffle("learned")
    squeeze = SqueezeExcitation(12, 3)

    def reasons(*steps: Factor | ChannelStep) -> list[str]:
        return gaps(around(*steps))[1]

    mixing = Factor(12, 12, groups=4, shuffle=learned)
    (reason,) = reasons(mixing, squeeze, Factor(12, 12, groups=2))
    assert "what follows does not mix channels" in reason
    (reason,) = reasons(NormAct(12, norm=True), Factor(12, 12, groups=12, shuffle=learned), Factor(12, 12, groups=2))
    assert "the dense factor before the block absorbs" in reason  # through the norm
    (reason,) = reasons(
        Factor(12, 12), squeeze, Factor(12, 12, 3, groups=12, shuffle=learned), Factor(12, 12, groups=2)
    )
    assert "the dense factor before it absorbs" in reason  # through the squeeze-excitation


def test_hardening_rebuilds_what_stands_around() -> None:
    steps = (NormAct(12, norm=True), Factor(12, 12, 3, groups=12), Factor(12, 12, groups=3), SqueezeExcitation(12, 3))
    asked = opened(around(*steps, shortcut=()))
    (gap,) = [gap for gap in gaps(asked)[0] if gap.block == "stage1.block1"]
    assert (gap.step, gap.reader) == (1, 2)
    orders = {gap.name: np.random.default_rng(0).permutation(12) for gap in gaps(asked)[0]}
    hard = hardened(asked, orders)
    assert hard.cost == asked.cost
    assert [type(step) for step in hard.stages[0].blocks[0].steps] == [type(step) for step in steps]
    assert Architecture.from_json(hard.to_json()) == hard


def test_the_head_may_hold_them() -> None:
    stem = Block((Factor(3, 12, 3),))
    bare = StagedArchitecture(3, 8, 10, stem, ())
    full = replace(bare, head=Head((NormAct(12, norm=True, activation="relu"), SqueezeExcitation(12, 4))))
    assert Architecture.from_json(full.to_json()) == full
    assert full.params - bare.params == 24 + 2 * 48 + 16
    assert full.macs - bare.macs == 96
    assert full.key != bare.key


def test_features_of_parts_count_them() -> None:
    def features(*steps: Factor | ChannelStep) -> dict[str, float]:
        return dict(zip(FEATURES, Part(Block(steps), 12, 5).features(2), strict=True))

    norm = features(NormAct(12, norm=True, activation="relu"))
    assert (norm["norms"], norm["activated"], norm["poolings"]) == (1, 2 * 12 * 25, 0)
    squeeze = features(SqueezeExcitation(12, 3))
    assert (squeeze["pointwise factors"], squeeze["pointwise macs"], squeeze["poolings"]) == (2, 2 * 72, 2 * 12 * 25)
