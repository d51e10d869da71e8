"""The equivalence key of networks with random and explicit shuffles: equal exactly where relabelling of channels connects them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import networkx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from igcsearch.spec import Architecture, Block, Factor, Parallel, Pool, Shuffle, Stage, StagedArchitecture
from igcsearch.spec.conditions import path_counts
from igcsearch.spec.labelling import canonical_wiring


def explicit(order: Sequence[int]) -> Shuffle:
    return Shuffle("explicit", order=tuple(int(c) for c in order))


def chain(
    channels: int, groups: Sequence[int], orders: Sequence[Sequence[int]], shortcut: bool = False
) -> Architecture:
    """A dense stem and one product of 1x1 factors of as many channels."""
    factors = [
        Factor(channels, channels, groups=count, shuffle=explicit(order))
        for count, order in zip(groups, orders, strict=True)
    ]
    block = Block(tuple(factors), shortcut=() if shortcut else None)
    return StagedArchitecture(3, 8, 10, Block((Factor(3, channels, 3),)), (Stage((block,)),))


def relabelled(
    channels: int, groups: Sequence[int], orders: Sequence[Sequence[int]], rng: random.Random
) -> list[list[int]]:
    """The same product, its branches and the channels within them called by other names from the second factor on."""

    def names(count: int, branches: Sequence[int]) -> list[int]:
        """Old to new channel: to the branch's new place, anywhere in it."""
        width, found = channels // count, [0] * channels
        for g in range(count):
            inside = rng.sample(range(width), width)
            for j in range(width):
                found[g * width + j] = branches[g] * width + inside[j]
        return found

    moved = [list(range(groups[0])), *(rng.sample(range(count), count) for count in groups[1:])]
    rows = [names(count, branches) for count, branches in zip(groups, moved, strict=True)]
    reads = [names(count, branches) for count, branches in zip(groups[1:], moved[1:], strict=True)]
    reads.append(list(range(channels)))  # the product's output keeps its order
    made = []
    for order, row, read in zip(orders, rows, reads, strict=True):
        new = [0] * channels
        for place, channel in enumerate(order):
            new[read[place]] = row[channel]
        made.append(new)
    return made


WIDTHS = [(12, (3, 4)), (12, (6, 2, 3)), (8, (4, 4)), (8, (2, 4, 4)), (16, (4, 8, 4))]


@given(st.sampled_from(WIDTHS), st.integers(0, 10**6), st.booleans())
def test_other_names_are_the_same_network(shape: tuple[int, tuple[int, ...]], seed: int, shortcut: bool) -> None:
    channels, groups = shape
    rng = random.Random(seed)
    orders = [rng.sample(range(channels), channels) for _ in groups]
    one = chain(channels, groups, orders, shortcut)
    other = chain(channels, groups, relabelled(channels, groups, orders, rng), shortcut)
    assert one.key == other.key
    assert canonical_wiring(one) == canonical_wiring(other)


def as_graph(architecture: Architecture) -> networkx.Graph:
    """The wiring written down anew: a node a branch and a node a channel that is read."""
    graph = networkx.Graph()
    (block,) = architecture.stages[0].blocks
    written = [("stem", c) for c in range(block.in_channels)]
    for node in written:
        graph.add_node(node, kind="stem")
    around = written
    for depth, factor in enumerate(block.factors):
        width, rows = factor.branch_width, factor.out_channels // factor.groups
        for c, node in enumerate(written):
            graph.add_node((depth, "branch", c // width), kind=f"branch {depth}")
            graph.add_edge(node, (depth, "branch", c // width))
        produced = []
        for row in range(factor.out_channels):
            node = (depth, "row", row)
            graph.add_node(node, kind=f"row {depth}")
            graph.add_edge((depth, "branch", row // rows), node)
            produced.append(node)
        written = [produced[row] for row in factor.order]
    if block.shortcut is not None:
        for i, pair in enumerate(zip(written, around, strict=True)):
            graph.add_node(("sum", i), kind="sum")
            graph.add_edges_from((node, ("sum", i)) for node in pair)
    return graph


def tables(architecture: Architecture) -> list[NDArray[np.int64]]:
    """How many channels go from each branch of a factor to each of the next; around a shortcut from the last to the first."""
    (block,) = architecture.stages[0].blocks
    factors, found = list(block.factors), []
    for one, other in zip(factors, [*factors[1:], factors[0]], strict=True):
        table = np.zeros((one.groups, other.groups), dtype=np.int64)
        for place, row in enumerate(one.order):
            table[row * one.groups // one.out_channels, place // other.branch_width] += 1
        found.append(table)
    return found if block.shortcut is not None else found[:-1]


# The oracle tries all names of all branches: channels matter only through the branches that they join.
@given(
    st.sampled_from([(8, (4, 4)), (8, (2, 4)), (6, (3, 2, 3)), (8, (4, 2, 4))]), st.integers(0, 10**6), st.booleans()
)
def test_the_key_agrees_with_trying_all_names(shape: tuple[int, tuple[int, ...]], seed: int, shortcut: bool) -> None:
    channels, groups = shape
    rng = random.Random(seed)
    one, other = (
        chain(channels, groups, [rng.sample(range(channels), channels) for _ in groups], shortcut) for _ in range(2)
    )
    first, second = tables(one), tables(other)
    same = any(
        all(
            np.array_equal(a[np.ix_(names[i], names[(i + 1) % len(groups)])], b)
            for i, (a, b) in enumerate(zip(first, second, strict=True))
        )
        for names in itertools.product(*(itertools.permutations(range(count)) for count in groups))
    )
    assert (one.key == other.key) == same


# Rule: between the two factors of a strict product nothing is left (docs/shuffles.md, 4). All 720 permutations.
def test_strict_products_of_two_factors_are_one_network() -> None:
    complementary, keys = 0, set()
    for order in itertools.permutations(range(6)):
        network = chain(6, (3, 2), [order, range(6)])
        (block,) = network.stages[0].blocks
        if (path_counts(block.steps) == 1).all():
            complementary += 1
            keys.add(network.key)
    assert complementary == 2**3 * 6**2
    interleaved = StagedArchitecture(
        3, 8, 10, Block((Factor(3, 6, 3),)), (Stage((Block((Factor(6, 6, groups=3), Factor(6, 6, groups=2))),)),)
    )
    assert keys == {interleaved.key}


# Rule: behind a channel-wise factor any permutation keeps the path counts (docs/shuffles.md, 3).
@given(st.permutations(range(12)))
def test_behind_a_channel_wise_factor_strict_stays_strict(order: list[int]) -> None:
    steps = (Factor(12, 12, 3, groups=12, shuffle=explicit(order)), Factor(12, 12, groups=4), Factor(12, 12, groups=3))
    assert Block(steps).report["complementary"] == "strict"


# Rule: refinement of colours does not decide. Six branches of two channels behind one another: a ring of twelve, or two of six.
def test_what_a_weisfeiler_lehman_hash_confuses() -> None:
    ring = [0, 2, 3, 5, 4, 6, 7, 9, 8, 10, 11, 1]
    two_rings = [0, 2, 3, 5, 4, 1, 6, 8, 9, 11, 10, 7]
    one, other = (chain(12, (6, 6), [order, range(12)]) for order in (ring, two_rings))
    first, second = as_graph(one), as_graph(other)
    hashes = [
        networkx.weisfeiler_lehman_graph_hash(graph, node_attr="kind", iterations=12) for graph in (first, second)
    ]
    assert hashes[0] == hashes[1]
    assert networkx.number_connected_components(first) != networkx.number_connected_components(second)
    assert one.key != other.key
    assert canonical_wiring(one) != canonical_wiring(other)


# papers/igcv2.md 1.2: K = (2, 2, 2) on 8 channels; the strict ones among the one-path wirings are one class.
def test_one_path_wirings_of_eight_channels() -> None:
    rng = random.Random(0)
    keys: dict[str, set[bool]] = {}
    interleaved = StagedArchitecture(
        3, 8, 10, Block((Factor(3, 8, 3),)), (Stage((Block((Factor(8, 8, groups=4),) * 3),)),)
    ).key
    for _ in range(4000):
        orders = [rng.sample(range(8), 8), rng.sample(range(8), 8), range(8)]
        network = chain(8, (4, 4, 4), orders)
        (block,) = network.stages[0].blocks
        if (path_counts(block.steps) == 1).all():
            keys.setdefault(network.key, set()).add(block.report["complementary"] == "strict")
    assert all(len(found) == 1 for found in keys.values())  # equal networks are of equal level
    assert len(keys) == 3
    assert sum(found == {True} for found in keys.values()) == 1
    assert keys[interleaved] == {True}


def test_the_same_as_interleaved_has_its_key() -> None:
    for widths in ((3, 4), (4, 3)):
        groups = [12 // width for width in widths]
        plain = StagedArchitecture(
            3, 8, 10, Block((Factor(3, 12, 3),)), (Stage((Block(tuple(Factor(12, 12, groups=g) for g in groups)),)),)
        )
        orders = [factor.order for factor in plain.stages[0].blocks[0].factors]
        rng = random.Random(1)
        assert chain(12, groups, relabelled(12, groups, orders, rng)).key == plain.key
        outside = [list(orders[0]), rng.sample(range(12), 12)]  # behind the last factor: the classifier takes any order
        assert chain(12, groups, outside).key == plain.key
        # around it a shortcut holds the order fast
        held = replace(plain, stages=(Stage((replace(plain.stages[0].blocks[0], shortcut=()),)),))
        assert chain(12, groups, outside, shortcut=True).key != held.key


def test_across_blocks_lanes_and_pools() -> None:
    def network(order: Sequence[int], lane: Sequence[int]) -> Architecture:
        lanes = Parallel(((Factor(6, 6, groups=3, shuffle=explicit(lane)),), ()), 12, split=(6, 6))
        first = Block((Factor(12, 12, groups=4, shuffle=explicit(order)), Pool(12), lanes))
        return StagedArchitecture(
            3, 16, 10, Block((Factor(3, 12, 3),)), (Stage((first, Block((Factor(12, 12, groups=3),)))),)
        )

    plain = network(range(12), range(6))
    within = [1, 2, 0, *range(3, 12)]  # other names within a branch
    assert network(within, range(6)).key == plain.key
    across = [6, 1, 2, 3, 4, 5, 0, *range(7, 12)]  # into the other lane
    assert network(across, range(6)).key != plain.key
    assert network(range(12), [1, 0, *range(2, 6)]).key == plain.key
    assert network(range(12), [5, 1, 2, 3, 4, 0]).key != plain.key


def test_the_channels_of_an_image_keep_their_places() -> None:
    def key(order: Sequence[int]) -> str:
        stem = Block((Factor(6, 6, groups=6, shuffle=explicit(order)), Factor(6, 6, 3, groups=3)))
        return StagedArchitecture(6, 8, 10, stem, ()).key

    assert key([1, 0, 2, 3, 4, 5]) == key(range(6))  # one branch reads both
    assert key([2, 1, 0, 3, 4, 5]) != key(range(6))
