"""Levels: the chain of a layer, what kernels cost, one order for all levels, and the one threshold for all layers."""

import math

import numpy as np
import pytest

from igcsearch.compress import levels
from igcsearch.compress.channels import channels_of
from igcsearch.compress.configuration import configured, uniform
from igcsearch.compress.criterion import groupable, norms
from igcsearch.compress.orders import Grouped, settle
from igcsearch.compress.permute import inside
from igcsearch.compress.sparsify import leveled
from igcsearch.compress.trace import trace
from igcsearch.errors import UsageError
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.knapsack import choose
from igcsearch.spec.operations import Activation, AdaptivePool, Convolution, Flatten, Linear
from igcsearch.spec.problem import Budget

from .networks import named, weights
from .test_configuration import chain
from .test_gathers import residual, through


def pair(width, out=None):
    """A stem and one layer between channels that nothing else ties."""
    out = out or width
    nodes = [
        Node("stem", Convolution(3, width, (1, 1)), (INPUT,)),
        Node("act", Activation("relu"), ("stem",)),
        Node("layer", Convolution(width, out, (3, 3), padding=(1, 1)), ("act",)),
        Node("pool", AdaptivePool(), ("layer",)),
        Node("flat", Flatten(), ("pool",)),
    ]
    return GraphArchitecture(3, 4, 4, (*nodes, Node("fc", Linear(out, 4), ("flat",))))


def searched(graph, matrices, gathers=False, **how):
    """Layers with those criteria, the order found, and the tables."""
    layers = leveled(graph, matrices, gathers=gathers)
    found = levels.nested(channels_of(graph), layers, **how)
    return layers, found, levels.tables(graph, layers, found)


def deepest(table, threshold=0.1):
    return table.options[levels.deepest([1 - option.lost for option in table.options], threshold)].groups


# ---------------------------------------------------------------- chains and costs
@pytest.mark.parametrize(
    ("outputs", "inputs", "counts"),
    [
        (32, 32, (1, 2, 4, 8, 16, 32)),
        (33, 33, (1, 3, 33)),
        (48, 48, (1, 2, 4, 8, 16, 48)),
        (48, 33, (1, 3)),
        (64, 3, (1,)),
        (3, 3, (1, 3)),
        (134, 67, (1, 67)),
    ],
)
def test_the_chain_of_a_layer(outputs, inputs, counts):
    assert levels.levels(outputs, inputs) == counts


def test_costs_as_published_for_eight_channels():
    """Off-diagonal halves 1, then 0.5, then 0.25, diagonal 0; R_g stops after g splits."""
    each = np.arange(8)
    whole = levels.apart(each, each, (1, 2, 4, 8))
    assert whole[0].tolist() == [0, 0.25, 0.5, 0.5, 1, 1, 1, 1]
    assert (whole == whole.T).all()
    assert levels.apart(each, each, (1, 2, 4, 8), 2)[0].tolist() == [0, 0, 0.5, 0.5, 1, 1, 1, 1]
    assert not levels.apart(each, each, (1, 2, 4, 8), 0).any()


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_threshold_is_a_share(value):
    with pytest.raises(UsageError, match=r"threshold .* is no share to lose; give one above 0 and below 1"):
        levels.check_threshold(value)


# ---------------------------------------------------------------- orders
@pytest.mark.parametrize("channels", [32, 33, 48, 3, 96])
def test_a_diagonal_layer_is_channel_wise(channels):
    """One channel a block, in any order: the deepest level, with as many groups as channels."""
    rng, graph = np.random.default_rng(channels), pair(channels)
    matrix = np.zeros((channels, channels))
    matrix[rng.permutation(channels), np.arange(channels)] = rng.uniform(0.5, 2, channels)
    _, _, (table,) = searched(graph, {"layer": matrix})
    assert deepest(table) == channels
    assert table.options[-1].lost == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("groups", [2, 8, 16])
def test_planted_blocks_are_found_at_their_level(groups):
    rng, graph = np.random.default_rng(groups), pair(32)
    which = np.arange(32) * groups // 32
    matrix = np.where(which[:, None] == which, rng.uniform(0.5, 1, (32, 32)), 0.01)
    matrix = matrix[rng.permutation(32)][:, rng.permutation(32)]
    _, _, (table,) = searched(graph, {"layer": matrix})
    alone = matrix[matrix > 0.02].sum() / matrix.sum()
    lost = next(option.lost for option in table.options if option.groups == groups)
    assert 1 - lost == pytest.approx(alone)


@pytest.mark.parametrize("gathers", [False, True])
def test_an_order_serves_all_levels_of_layers_that_share_it(gathers):
    """Deeper never keeps more; groups nest; the tables agree with the weights in that order; going on is no worse."""
    graph = residual(24, blocks=2, inner=36)
    matrices = norms(weights(graph), [f"{b}.{n}" for b in "01" for n in ("one", "two")], "l1")
    layers, found, tables = searched(graph, matrices, gathers, starts=1)
    channels = channels_of(graph)
    assert set(found.places.reads) == (set(matrices) if gathers else set())
    for layer, table in zip(layers, tables, strict=True):
        rows, columns = (channels.order(tensor, found.places.stored) for tensor in (layer.name, layer.source))
        columns = found.places.reads.get(layer.name, columns)
        matrix = layer.criterion[rows][:, columns]
        for option in table.options:
            height, width = (size // option.groups for size in matrix.shape)
            blocks = sum(
                matrix[g * height : (g + 1) * height, g * width : (g + 1) * width].sum() for g in range(option.groups)
            )
            assert 1 - option.lost == pytest.approx(blocks / matrix.sum())
        assert [o.lost for o in table.options] == sorted(o.lost for o in table.options)
    again = levels.nested(channels, layers, begin=found.places)
    assert again.value >= found.value
    assert found.value > levels.standing(channels, layers, levels.Places(channels.same())).value


def test_orders_of_their_own_keep_more_at_all_levels():
    """Of layers that share channels, and each of which mixes others."""
    graph, rng = residual(24, blocks=3, inner=24), np.random.default_rng(0)
    matrices = {}
    for name in ("0.one", "0.two", "1.one", "1.two", "2.one", "2.two"):
        blocks = np.kron(np.eye(8), np.ones((3, 3))) + 0.02
        matrices[name] = blocks[:, rng.permutation(24)]
    kept = {}
    for gathers in (False, True):
        _, _, tables = searched(graph, matrices, gathers)
        kept[gathers] = [min(1 - option.lost for option in table.options if option.groups <= 8) for table in tables]
    inside = 8 * 9 * 1.02 / (8 * 9 * 1.02 + (24 * 24 - 72) * 0.02)
    assert kept[True] == pytest.approx([inside] * 6)
    assert max(kept[False]) < 0.9 * inside


def test_an_affinity_of_one_group_each_changes_nothing():
    """The search with 1 on the diagonal and 0 elsewhere keeps what the search without an affinity keeps."""
    graph, rng = residual(12, blocks=2, inner=8), np.random.default_rng(0)
    plain, same = [], []
    for name, matrix in norms(weights(graph), ["0.one", "0.two", "1.one", "1.two"], "l2").items():
        plain.append(Grouped(name, graph.node(name).reads[0], matrix, 4, float(rng.uniform(0.5, 2))))
        same.append(Grouped(name, plain[-1].source, matrix, 4, plain[-1].weight, affinity=np.eye(4)))
    channels = channels_of(graph)
    assert settle(channels, same).kept == pytest.approx(settle(channels, plain).kept)


def test_an_affinity_of_other_groups_is_refused():
    with pytest.raises(UsageError, match=r"it must be one of 4 groups"):
        Grouped("a", "b", np.ones((8, 8)), 4, affinity=np.eye(3))


# ---------------------------------------------------------------- budgets
def window(graph, tables, budget, share=0.99):
    """Whether some levels fill the last percent of a budget."""
    names = [name for name in ("params", "macs") if getattr(budget, name) is not None]
    costs = [[[getattr(o.cost, name) for name in names] for o in t.options] for t in tables]
    dense = [sum(each[0][n] for each in costs) for n in range(len(names))]
    fixed = [getattr(graph, name) - whole for name, whole in zip(names, dense, strict=True)]
    limits = [getattr(budget, name) - less for name, less in zip(names, fixed, strict=True)]
    if min(limits) < 0:
        return False
    for at, name in enumerate(names):
        floors = [-math.inf] * len(names)
        floors[at] = share * getattr(budget, name) - fixed[at]
        if choose([[0.0] * len(t.options) for t in tables], costs, limits, floors) is not None:
            return True
    return False


def check_budgets(graph, state, shares, kinds=("macs", "params")):
    """Whole configurations: inside the budget, and in its last percent wherever some levels are."""
    names = [node.name for node, _ in groupable(graph)]
    _, found, tables = searched(graph, norms(state, names, "l1"), starts=1)
    channels, filled = channels_of(graph), 0
    for kind in kinds:
        for share in shares:
            most = int(share * getattr(graph, kind))
            budget = Budget(**{kind: most})
            made = inside(
                graph,
                state,
                tables,
                budget,
                filled=0.99,
                begin=lambda chosen: levels.placed(channels, chosen, found.places),
            )
            spent = getattr(made.architecture, kind)
            assert spent <= most
            assert made.difference < 1e-3
            if window(graph, tables, budget):
                filled += 1
                assert spent >= 0.99 * most
    return filled


def test_budgets_of_a_residual_network():
    graph = residual(24, blocks=3, inner=36)
    assert check_budgets(graph, weights(graph), (0.9, 0.6, 0.35)) >= 3


def test_budgets_of_odd_widths():
    graph = through(33, 48, 33, 3, 48, 48)
    assert check_budgets(graph, weights(graph), (0.9, 0.7, 0.5)) >= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2"])
def test_budgets_of_torchvisions_networks(name):
    traced = trace(named(name), 64)
    check_budgets(traced.architecture, traced.state_dict, (0.7, 0.4), ("macs", "params"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("blocks", [3, 9])
def test_budgets_of_cifar_resnets(blocks, monkeypatch):
    """ResNet-20 and ResNet-56."""
    import benchmarks.resnet20 as module

    monkeypatch.setattr(module, "BLOCKS", blocks)
    traced = trace(module.resnet20().eval(), 32)
    assert check_budgets(traced.architecture, traced.state_dict, (0.8, 0.6, 0.4, 0.2)) >= 6


def test_a_budget_that_no_level_reaches_says_the_smallest():
    graph = pair(33)
    _, _, tables = searched(graph, norms(weights(graph), ["layer"], "l1"))
    least = graph.params - 33 * 33 * 9 + 33 * 9
    with pytest.raises(UsageError, match=rf"the smallest has {least:,} params"):
        configured(graph, tables, Budget(params=least - 1))
    assert [option.groups for option in configured(graph, tables, Budget(params=least))] == [33]
    assert levels.bisected(graph, tables, Budget(params=least - 1)) is None


def test_one_threshold_for_all_layers():
    """The smallest that meets the budget: a little less does not."""
    graph = chain((8, 12, 24, 36))
    state = weights(graph)
    names = [node.name for node, _ in graph.convolutions()]
    _, _, tables = searched(graph, norms(state, names, "l1"))
    least = min(option.lost for table in tables for option in table.options if option.lost > 0)
    for share in (0.99, 0.8, 0.6, 0.4):
        budget = Budget(macs=int(share * graph.macs))
        threshold, cost = levels.bisected(graph, tables, budget)
        assert cost.macs <= budget.macs
        picked = {table.name: deepest(table, threshold + 1e-9) for table in tables}
        assert levels.cost_at(graph, picked) == cost
        before = {table.name: deepest(table, max(threshold - 1e-9, least / 2)) for table in tables}
        assert levels.cost_at(graph, before).macs > budget.macs
    assert levels.bisected(graph, tables, Budget(macs=graph.macs))[0] == 0
    assert uniform(graph, tables, Budget(macs=graph.macs)) is not None
