"""N:M sparsity as data: what stays, what is stored, costs, JSON, the key; oracles count weight by weight."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Block, Factor, Parallel, Shuffle, Sparsity, Stage, StagedArchitecture
from igcsearch.spec.conditions import block_report
from igcsearch.spec.digits import checked
from igcsearch.spec.free_parameters import free_parameters
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.labelling import canonical_wiring
from igcsearch.spec.operations import AdaptivePool, Convolution, Flatten, Linear
from igcsearch.spec.sparsity import storage_bits, storage_bytes


def sparsities() -> st.SearchStrategy[Sparsity]:
    pairs = st.integers(1, 20).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m)))
    return st.builds(lambda pair, axis: Sparsity(*pair, axis=axis), pairs, st.sampled_from(["in", "out"]))


def staged(*steps: Factor | Parallel, shortcut: tuple[Factor, ...] | None = None) -> StagedArchitecture:
    """Images of 3 x 8 x 8, a dense stem, one block."""
    stem = Block((Factor(3, steps[0].in_channels, 3),))
    return StagedArchitecture(3, 8, 10, stem, (Stage((Block(tuple(steps), shortcut=shortcut),)),))


def graph(**more: Any) -> GraphArchitecture:
    nodes = (
        Node("conv", Convolution(3, 8, (3, 3), padding=(1, 1), **more), (INPUT,)),
        Node("pool", AdaptivePool(), ("conv",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(8, 5), ("flat",)),
    )
    return GraphArchitecture(3, 8, 5, nodes)


# ---------------------------------------------------------------- what stays
@given(sparsities(), st.integers(1, 60))
def test_kept_of_counts_group_by_group(sparsity: Sparsity, channels: int) -> None:
    kept = 0
    for begin in range(0, channels, sparsity.m):
        size = min(sparsity.m, channels - begin)
        kept += math.ceil(size * sparsity.n / sparsity.m - 1e-9)  # ceil(r * N / M); N where r = M
    assert sparsity.kept_of(channels) == kept
    assert sparsity.on(channels).kept_of(channels) == kept


def test_groups_longer_than_the_line_are_its_incomplete_group() -> None:
    assert Sparsity(2, 16).told(8) == "2:16 on 8 channels is 1 of 8"
    assert Sparsity(2, 4).told(64) == "2:4 on 64 channels is 32 of 64"
    assert Sparsity(2, 16).on(8) == Sparsity(1, 8)
    assert Factor(8, 8, sparsity=(2, 16)).kept_weights == 8


@pytest.mark.parametrize(
    ("given", "axis", "message"),
    [
        ((5, 4), "in", "sparsity 5:4: N must be at least 1 and at most M"),
        ((0, 4), "in", "sparsity 0:4: N must be at least 1 and at most M"),
        ((2.0, 4), "in", "N of an N:M sparsity = 2.0 must be a whole number"),
        ((2,), "in", "two whole numbers are needed, N and M"),
        (2, "in", "two whole numbers are needed, N and M"),
        ((2, 4), "inn", "did you mean 'in'"),
        (None, "out", "sparse axis 'out' without a sparsity"),
    ],
)
@pytest.mark.parametrize("kind", ["factor", "convolution"])
def test_what_cannot_be_is_refused(kind: str, given: Any, axis: str, message: str) -> None:
    made: Any = Factor(8, 8) if kind == "factor" else Convolution(8, 8, (1, 1))
    with pytest.raises(UsageError) as refused:
        replace(made, sparsity=given, sparse_axis=axis)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- bytes
@pytest.mark.parametrize(
    ("n", "m", "coding", "factor"),
    [
        (2, 4, "index", 64 / 36),
        (2, 8, "index", 128 / 38),
        (2, 16, "index", 6.4),
        (1, 16, "index", 12.8),
        (2, 4, "pattern", 64 / 35),  # 3 bits a group
        (1, 4, "pattern", 64 / 18),
    ],
)
def test_storage_is_smaller_by_the_formula(n: int, m: int, coding: str, factor: float) -> None:
    bits = sum(storage_bits(Sparsity(n, m), 64, 32, (3, 3), value_bits=16, coding=coding))
    assert 64 * 32 * 9 * 16 / bits == pytest.approx(factor, rel=1e-12)
    stored = storage_bytes(Sparsity(n, m), 64, 32, (3, 3), value_bits=16, coding=coding)
    assert stored == bits // 8


def test_patterns_are_numbered_where_they_are_few() -> None:
    assert Sparsity(2, 4).coding(64) == "pattern"
    assert Sparsity(8, 24).coding(64) == "index"  # 735,471 patterns
    assert Sparsity(8, 24).coding(8) == "pattern"  # a line of 8 is 3 of 8
    assert Sparsity(8, 24).code_bits(64) == 5
    assert Sparsity(4, 4).code_bits(64) == 0


# ---------------------------------------------------------------- costs
@given(sparsities(), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
def test_params_are_the_kept_weights_counted_one_by_one(
    s: Sparsity, groups: int, k_in: int, k_out: int, size: int
) -> None:
    kept = 0
    for place in range(k_in if s.axis == "in" else k_out):
        group, inside = divmod(place, s.m)
        length = min(s.m, (k_in if s.axis == "in" else k_out) - group * s.m)
        kept += inside < -(-length * s.n // s.m)
    kept *= groups * (k_out if s.axis == "in" else k_in) * size**2
    pair = (s.n, s.m)
    factor = Factor(
        k_in * groups, k_out * groups, size, groups, bias=True, norm=True, sparsity=pair, sparse_axis=s.axis
    )
    convolution = Convolution(
        k_in * groups, k_out * groups, (size, size), groups=groups, bias=True, sparsity=pair, sparse_axis=s.axis
    )
    assert factor.params == kept + 3 * k_out * groups
    assert convolution.params == kept + k_out * groups
    assert factor.nonzero_macs_at(5) == 25 * kept
    assert convolution.nonzero_macs((1, 5, 5)) == 25 * kept
    dense = size**2 * k_in * k_out * groups * 25
    assert factor.macs_at(5) == convolution.macs((1, 5, 5)) == dense


def test_nonzero_macs_of_whole_networks() -> None:
    sparse = Factor(12, 12, 3, groups=2, stride=2, sparsity=(1, 3))
    lanes = Parallel(((sparse,), (Factor(12, 12, 3, stride=2),)), 12, join="add")
    made = staged(lanes, Factor(12, 12), shortcut=(Factor(12, 12, stride=2, sparsity=(1, 2), sparse_axis="out"),))
    positions = 4 * 4
    spared = (12 * 6 * 9 * 2 // 3 + 12 * 12 // 2) * positions
    assert made.nonzero_macs == made.macs - spared
    plain = staged(Factor(12, 12, 3), shortcut=())
    assert plain.nonzero_macs == plain.macs
    assert graph(sparsity=(1, 3)).nonzero_macs == graph().macs - 8 * 2 * 9 * 64
    assert graph(sparsity=(1, 3)).macs == graph().macs
    assert graph().nonzero_macs == graph().macs


# ---------------------------------------------------------------- JSON
@pytest.mark.parametrize("axis", ["in", "out"])
def test_json_round_trip_and_nothing_new_without_it(axis: str) -> None:
    for made in (staged(Factor(8, 8, sparsity=(2, 4), sparse_axis=axis)), graph(sparsity=(2, 4), sparse_axis=axis)):
        text = made.to_json()
        assert Architecture.from_json(text) == made
        assert Architecture.from_json(text).hash == made.hash
        assert '"sparsity": [2, 4]' in text
        assert ("sparse_axis" in text) == (axis == "out")
    for plain in (staged(Factor(8, 8)), graph()):
        assert "spars" not in plain.to_json()


@pytest.mark.parametrize("value", [[2], [5, 4], "2:4", [2, 4.0]])
def test_errors_in_json_say_where(value: object) -> None:
    for made, place in ((staged(Factor(8, 8, sparsity=(2, 4))), "steps[0]"), (graph(sparsity=(2, 4)), "nodes[0]")):
        data = json.loads(made.to_json())
        block = data["stages"][0]["blocks"][0]["steps"][0] if "stages" in data else data["nodes"][0]
        block["sparsity"] = value
        with pytest.raises(UsageError) as refused:
            Architecture.from_dict(data)
        assert place in str(refused.value)


def test_a_sparse_first_convolution_cannot_read_other_channels() -> None:
    with pytest.raises(UsageError, match="no dense convolution"):
        graph(sparsity=(1, 3)).with_(in_channels=1)
    with pytest.raises(UsageError, match="not dense"):
        StagedArchitecture(3, 8, 10, Block((Factor(3, 8, sparsity=(1, 3)),)), ()).with_(in_channels=1)


# ---------------------------------------------------------------- which networks are the same
def test_the_key_tells_sparsities_apart() -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"sparsity": (2, 4)},
        {"sparsity": (1, 4)},
        {"sparsity": (2, 4), "sparse_axis": "out"},
    ]
    assert len({staged(Factor(8, 8, **way)).key for way in ways}) == 4
    assert len({graph(**way).key for way in ways}) == 4


def test_shuffles_are_absorbed_only_where_no_group_of_m_is() -> None:
    grouped = Factor(8, 8, groups=2)
    mixed = Shuffle(
        "explicit", order=(0, 1, 2, 4, 3, 5, 6, 7)
    )  # of branches of 4: 3 and 1, then 1 and 3; interleaved 2 and 2
    other = replace(grouped, shuffle=mixed)
    along_in, along_out = Factor(8, 8, sparsity=(2, 4)), Factor(8, 8, sparsity=(2, 4), sparse_axis="out")
    assert staged(grouped, along_out).key == staged(other, along_out).key  # each row reads all inputs alike
    assert staged(grouped, along_in).key != staged(other, along_in).key
    first, free = replace(along_in, shuffle=Shuffle("identity")), replace(along_in, shuffle=mixed)
    assert staged(first, grouped).key == staged(free, grouped).key
    assert (
        staged(replace(first, sparse_axis="out"), grouped).key != staged(replace(free, sparse_axis="out"), grouped).key
    )


def test_channels_of_one_group_of_m_can_be_relabelled() -> None:
    def made(order: tuple[int, ...]) -> Architecture:
        factor = Factor(8, 8, groups=2, shuffle=Shuffle("explicit", order=order))
        return staged(factor, Factor(8, 8, groups=2, sparsity=(1, 2)))

    plain, within, across = (
        made((0, 4, 1, 5, 2, 6, 3, 7)),
        made((4, 0, 1, 5, 2, 6, 3, 7)),
        made((0, 1, 4, 5, 2, 6, 3, 7)),
    )
    assert plain.key == within.key
    assert plain.key != across.key  # a pair of one branch's channels in a group of M
    assert canonical_wiring(plain) != canonical_wiring(across)


def test_conditions_take_dense_branches() -> None:
    def report(**more: Any) -> dict[str, Any]:
        factors = (Factor(12, 12, 3, 3, shuffle=Shuffle(), **more), Factor(12, 12, groups=4, **more))
        return block_report(Block(factors)) | {"params": 0}

    assert report(sparsity=(1, 2)) == report()


def test_free_parameters_of_sparse_products() -> None:
    # 2 x 2 of 2 -> 1 each: weights a, b (rows) and c, d; scaling the two channels between trades one weight each.
    sparse = Factor(2, 2, sparsity=(1, 2))
    assert free_parameters([sparse, sparse]) == 2 + 2 - 2
    assert free_parameters([Factor(2, 2), sparse]) == 4 + 2 - 2
    out = replace(sparse, sparse_axis="out")
    assert free_parameters([out, sparse]) == 4  # neither is sure to have a weight at a channel


def test_group_counts_are_not_learned_beside_it() -> None:
    depthwise, pointwise = Factor(8, 8, 3, groups=8), Factor(8, 8, sparsity=(2, 4))
    with pytest.raises(UsageError, match="N:M sparsity"):
        checked(Block((depthwise, pointwise)))
