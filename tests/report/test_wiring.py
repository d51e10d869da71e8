"""The wiring of a block: multiplied out it must give the path counts of the specification, which are computed otherwise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igcsearch.blocks import FAMILIES
from igcsearch.report.wiring import Layer, factor_edges, hues, trace, wire
from igcsearch.spec import Block, ChannelStep, Factor, NormAct, Parallel, Pool, Shuffle, SqueezeExcitation
from igcsearch.spec.block import every_factor
from igcsearch.spec.conditions import path_counts


def multiplied(layers: tuple[Layer, ...]) -> np.ndarray:
    """Paths from each input to each output by following every line."""
    total = np.eye(layers[0].in_width, dtype=np.int64)
    for layer in layers:
        matrix = np.zeros((layer.out_width, layer.in_width), dtype=np.int64)
        for branch in layer.branches:
            for i in branch.ins:
                for o in branch.outs:
                    matrix[o, i] += 1
        total = matrix @ total
    return total


SHUFFLES = st.sampled_from([Shuffle(), Shuffle("identity"), Shuffle("random", seed=3)])


@st.composite
def chains(draw: st.DrawFn, width: int | None = None) -> tuple[Factor | ChannelStep, ...]:
    """Products of one to three factors, at times with a step between them that leaves channels in their places."""
    steps: list[Factor | ChannelStep] = []
    channels = width or draw(st.sampled_from([2, 4, 6, 12]))
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.sampled_from([2, 4, 6, 12]))
        common = [g for g in range(1, 13) if channels % g == 0 and out % g == 0]
        steps.append(Factor(channels, out, groups=draw(st.sampled_from(common)), shuffle=draw(SHUFFLES)))
        if draw(st.booleans()):
            alone = (Pool(out, stride=1), NormAct(out, activation="relu"), SqueezeExcitation(out, 2))
            steps.append(draw(st.sampled_from(alone)))
        channels = out
    return tuple(steps)


@settings(max_examples=60, deadline=None)
@given(chains())
def test_wiring_of_a_product_has_its_path_counts(steps: tuple[Factor | ChannelStep, ...]) -> None:
    layers = wire(Block(steps))
    assert (multiplied(layers) == path_counts(steps)).all()
    # A column ends where the next begins.
    assert all(a.out_width == b.in_width for a, b in pairwise(layers))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_wiring_of_lanes_has_their_path_counts(data: st.DataObject) -> None:
    split = data.draw(st.booleans())
    lanes = (data.draw(chains(width=4)), data.draw(chains(width=4)), ())
    step = Parallel(lanes, 12 if split else 4, split=(4, 4, 4) if split else None, shuffle=Shuffle("random", seed=1))
    assert (multiplied(wire(Block((step,)))) == path_counts((step,))).all()


def test_added_lanes_have_the_sum_of_their_paths() -> None:
    step = Parallel(((Factor(6, 6, groups=2),), ()), 6, join="add")
    assert (multiplied(wire(Block((step,)))) == path_counts((step,))).all()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_lines_inside_branches_are_the_factors_weights(family: str) -> None:
    needed = {"igcv1": {"primary_groups": 4}, "igcv2": {"branch_widths": (4, 4)}, "shufflenet": {"groups": 2}}
    options = {"groups": 4} if family == "resnext" else needed.get(family, {})
    block = FAMILIES[family](16, 16, **options)
    expected = sum(f.in_channels * f.out_channels // f.groups for f in every_factor(block.steps))
    assert factor_edges(wire(block)) == expected


@settings(max_examples=30, deadline=None)
@given(chains())
def test_trace_of_a_channel_ends_at_the_outputs_it_reaches(steps: tuple[Factor | ChannelStep, ...]) -> None:
    layers, counts = wire(Block(steps)), path_counts(steps)
    for channel in range(steps[0].in_channels):
        ends = {o for _, o in trace(layers, channel)[-1]}
        assert ends == set(np.flatnonzero(counts[:, channel]))


def test_colours_follow_channels_through_a_shuffle() -> None:
    factor = Factor(6, 6, groups=3)
    before, after, moved = hues(wire(Block((factor,))))
    assert before == after
    assert moved == [after[int(source)] for source in factor.order]
    assert len(set(before)) == 3


def test_steps_that_leave_channels_in_their_places_say_what_they_do() -> None:
    steps = (NormAct(6, norm=True, activation="relu"), Pool(6, "avg", 3, 2), SqueezeExcitation(6, 2), Factor(6, 6))
    layers = wire(Block(steps))
    assert [layer.label for layer in layers[:3]] == ["norm · relu", "avg pool 3×3", "squeeze to 2"]
    assert [layer.note for layer in layers[:3]] == ["", "stride 2", "relu · sigmoid"]
    assert all(layer.kind == "wire" for layer in layers[:3])
