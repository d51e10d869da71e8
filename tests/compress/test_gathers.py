"""Gathers as a trade-off: more of them never keep less; and whole compressions of networks with odd widths."""

import numpy as np
import pytest

from igcsearch.compress.channels import channels_of
from igcsearch.compress.configuration import smallest, tables
from igcsearch.compress.criterion import criteria, groupable
from igcsearch.compress.gathers import settled
from igcsearch.compress.orders import Grouped, settle
from igcsearch.compress.permute import permute
from igcsearch.errors import UsageError
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, Add, Convolution, Flatten, Gather, Linear
from igcsearch.spec.problem import Budget

from .networks import random_graph, weights
from .test_convert import layers_of, total


def residual(width, classes=4, blocks=2, inner=None):
    """Blocks of two convolutions with a sum over each: all block inputs share one order."""
    nodes = [Node("stem", Convolution(3, width, (3, 3), padding=(1, 1)), (INPUT,))]
    before, inner = "stem", inner or width
    for b in range(blocks):
        nodes += [
            Node(f"{b}.one", Convolution(width, inner, (3, 3), padding=(1, 1), bias=True), (before,)),
            Node(f"{b}.act", Activation("relu"), (f"{b}.one",)),
            Node(f"{b}.two", Convolution(inner, width, (1, 1)), (f"{b}.act",)),
            Node(f"{b}.sum", Add(), (f"{b}.two", before)),
        ]
        before = f"{b}.sum"
    nodes += [Node("pool", AdaptivePool(), (before,)), Node("flat", Flatten(), ("pool",))]
    return GraphArchitecture(3, 6, classes, (*nodes, Node("fc", Linear(width, classes), ("flat",))))


def gathers_of(graph):
    return sum(isinstance(node.operation, Gather) for node in graph.nodes)


def networks():
    yield from (random_graph(seed, steps=12) for seed in range(1000, 1006))
    yield from (residual(width, blocks=3) for width in (12, 16))


@pytest.mark.parametrize("number", range(8))
def test_more_gathers_keep_no_less(number):
    graph = list(networks())[number]
    state = weights(graph, number)
    matrices = criteria(graph, state, "l2")
    least = smallest(graph, tables(graph, matrices))
    budget = Budget(params=int(least.params + 0.3 * (graph.params - least.params)))
    before, own = 0.0, gathers_of(graph)
    for count in (0, 1, 2, 3, 100, None):
        found = permute(graph, state, matrices, budget, gathers=count)
        assert found.kept >= before - 1e-9
        assert found.gathers <= (100 if count is None else count)
        assert found.gathers == gathers_of(found.architecture) - own
        numbers, shares = zip(*found.tradeoff, strict=True)
        assert list(numbers) == sorted(set(numbers))
        assert list(shares) == sorted(shares)
        assert any(share == pytest.approx(found.kept) for share in shares)
        assert numbers[0] == 0
        before = found.kept


def test_a_trade_off_is_kept_to():
    """What it says of gathers that there are not yet is reached when they are."""
    graph = residual(16, blocks=3)
    state = weights(graph)
    matrices, budget = criteria(graph, state, "l2"), Budget(params=int(0.4 * graph.params))
    first = permute(graph, state, matrices, budget)
    assert len(first.tradeoff) > 2
    for number, share in first.tradeoff:
        assert permute(graph, state, matrices, budget, gathers=number).kept >= share - 1e-9


def test_the_gather_goes_where_it_gains_most():
    """One of three layers wants another order of the shared channels; a gather for it brings all of its criterion back."""
    graph = residual(12, blocks=3, inner=8)
    channels, rng = channels_of(graph), np.random.default_rng(0)
    layers = []
    for layer in layers_of(graph, weights(graph), "tied"):
        if not layer.name.endswith(".one"):
            continue
        columns = np.repeat([0, 1], 6) if layer.name != "1.one" else np.tile([0, 1], 6)
        matrix = (rng.permutation(np.repeat([0, 1], 4))[:, None] == columns).astype(float)
        layers.append(Grouped(layer.name, layer.source, matrix, 2, 1.0 if layer.name != "1.one" else 0.9))
    made = settled(channels, layers, 1)
    assert [layer.name for layer in made.layers if layer.gather] == ["1.one"]
    assert made.orders.kept == pytest.approx(dict.fromkeys(("0.one", "1.one", "2.one"), 1.0))
    assert len(made.kept) == 2


@pytest.mark.parametrize("seed", range(4))
def test_orders_settled_again_keep_no_less(seed):
    graph = random_graph(1000 + seed, steps=12)
    channels, layers = channels_of(graph), layers_of(graph, weights(graph, seed), "tied", seed)
    first = settle(channels, layers, rounds=1, starts=1)
    freed = [
        type(each)(each.name, each.source, each.criterion, each.groups, each.weight, n % 2 == 0)
        for n, each in enumerate(layers)
    ]
    for more in (layers, freed):
        assert total(settle(channels, more, begin=first), more) >= total(first, layers) - 1e-9


# ---------------------------------------------------------------- odd widths
def through(*widths, size=6):
    """Convolutions of those widths one behind the other."""
    nodes, before, c = [], INPUT, 3
    for number, width in enumerate(widths):
        nodes.append(Node(f"c{number}", Convolution(c, width, (3, 3), padding=(1, 1), bias=True), (before,)))
        before, c = f"c{number}", width
    nodes += [Node("pool", AdaptivePool(), (before,)), Node("flat", Flatten(), ("pool",))]
    return GraphArchitecture(3, size, 4, (*nodes, Node("fc", Linear(c, 4), ("flat",))))


@pytest.mark.parametrize("widths", [(33, 48, 33, 3), (48, 3, 33, 48), (1, 12, 12, 1), (12, 1, 1, 12), (3, 1, 3)])
def test_widths_that_divide_badly(widths):
    """Group counts are common divisors, whatever they are; a side of one channel leaves a layer dense."""
    graph = through(*widths)
    state = weights(graph)
    matrices = criteria(graph, state, "l2")
    for name, options in ((table.name, table.options) for table in tables(graph, matrices)):
        outputs, inputs = matrices[name].shape
        assert [o.groups for o in options] == [g for g in range(1, 65) if outputs % g == 0 == inputs % g]
    least = smallest(graph, tables(graph, matrices))
    for share in (0.0, 0.5):
        budget = Budget(params=int(least.params + share * (graph.params - least.params)))
        found = permute(graph, state, matrices, budget, gathers=1)  # it checks masked against deployed
        assert budget.admits(*found.architecture.cost)
        assert found.difference < 1e-9
        for row in found.layers:
            assert row["groups"] == 1 or min(row["in_channels"], row["out_channels"]) > 1


def test_networks_without_a_layer_to_group():
    graph = through(1, 1, 1)
    state = weights(graph)
    assert [node.name for node, _ in groupable(graph)] == ["c0"]
    matrices = criteria(graph, state)
    found = permute(graph, state, matrices, Budget(params=graph.params))
    assert (found.kept, found.gathers, found.tradeoff) == (1.0, 0, [(0, 1.0)])
    with pytest.raises(UsageError, match=r"no group counts bring this network"):
        permute(graph, state, matrices, Budget(params=graph.params - 1))
