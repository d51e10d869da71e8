"""Group counts inside a budget: against enumeration, on random graphs and torchvision's networks; what is said when none fit."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest
import torch

from igcsearch.compress.configuration import (
    FILLED,
    Option,
    Table,
    Times,
    configured,
    local,
    smallest,
    tables,
    uniform,
)
from igcsearch.compress.criterion import criteria, groupable
from igcsearch.compress.trace import trace
from igcsearch.errors import UsageError
from igcsearch.permutations import kept
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.knapsack import choose
from igcsearch.spec.operations import AdaptivePool, Convolution, Flatten, Linear
from igcsearch.spec.problem import Budget, Cost

from .networks import named, random_graph, weights


def chain(widths, size=9):
    """Convolutions 3 x 3 of those widths one behind the other, strides 1 and 2 in turn."""
    nodes, before = [], (INPUT, 3)
    for number, width in enumerate(widths):
        stride = (1 + number % 2,) * 2
        operation = Convolution(before[1], width, (3, 3), stride, (1, 1), bias=number % 2 == 0)
        nodes.append(Node(f"c{number}", operation, (before[0],)))
        before = (f"c{number}", width)
    nodes += [Node("pool", AdaptivePool(), (before[0],)), Node("flat", Flatten(), ("pool",))]
    return GraphArchitecture(3, size, 4, (*nodes, Node("fc", Linear(before[1], 4), ("flat",))))


def made_up(graph, seed):
    """The tables of a graph with made-up losses, more the more groups, and weights; costs as they are."""
    rng, found = np.random.default_rng(seed), []
    for node, convolution in groupable(graph):
        _, height, width = graph.shapes[node.name]
        common = math.gcd(convolution.in_channels, convolution.out_channels)
        counts = [g for g in range(1, min(common, 64) + 1) if common % g == 0]
        lost = np.sort(rng.random(len(counts)))
        options = []
        for groups, share in zip(counts, lost, strict=True):
            cost = convolution.weights // groups
            options.append(Option(groups, 0.0 if groups == 1 else float(share), Cost(cost, cost * height * width)))
        found.append(Table(node.name, node.reads[0], np.ones((1, 1)), tuple(options), float(rng.uniform(0.1, 3))))
    return found


def grouped(graph, found, chosen):
    """The graph with those groups: its own cost is what a budget is about."""
    groups = {table.name: option.groups for table, option in zip(found, chosen, strict=True)}
    nodes = []
    for node in graph.nodes:
        operation = node.operation
        if node.name in groups:
            operation = Convolution(**{**operation.__dict__, "groups": groups[node.name]})
        nodes.append(Node(node.name, operation, node.reads, node.shares))
    return graph.with_nodes(nodes)


def loss(found, chosen):
    return sum(table.weight * option.lost for table, option in zip(found, chosen, strict=True))


def budgets(graph, found, rng, kind):
    """A budget of that kind between somewhat too little and all."""
    least = smallest(graph, found)
    share = rng.uniform(-0.05, 1.02, size=2)
    limits = [int(low + s * (high - low)) for low, high, s in zip(least, graph.cost, share, strict=True)]
    return Budget(
        *(max(1, n) if kind in (name, "both") else None for name, n in zip(("params", "macs"), limits, strict=True))
    )


def filled(cost, budget):
    limits = [(cost.params, budget.params), (cost.macs, budget.macs)]
    return any(spent >= FILLED * limit for spent, limit in limits if limit is not None)


KINDS = ["params", "macs", "both"]


# ---------------------------------------------------------------- exact
@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_configuration_against_enumeration(kind):
    """Of least loss among those inside the budget that fill 97 % of a limit; of all inside where none does."""
    rng, seen = np.random.default_rng(KINDS.index(kind)), {"found": 0, "none": 0, "unfilled": 0}
    for seed in range(30):
        graph = chain(rng.choice([4, 6, 8, 12], size=rng.integers(1, 6)).tolist())
        found = made_up(graph, seed)
        budget = budgets(graph, found, rng, kind)
        inside = []
        for each in itertools.product(*(table.options for table in found)):
            pairs = [(table.options[0].cost, option.cost) for table, option in zip(found, each, strict=True)]
            cost = Cost(*(whole - sum(a[n] - b[n] for a, b in pairs) for n, whole in enumerate(graph.cost)))
            if budget.admits(*cost):
                inside.append((loss(found, each), filled(cost, budget)))
        if not inside:
            seen["none"] += 1
            with pytest.raises(UsageError, match=r"no group counts bring"):
                configured(graph, found, budget)
            assert uniform(graph, found, budget) is None
            assert local(graph, found, budget) is None
            continue
        chosen = configured(graph, found, budget)
        cost = grouped(graph, found, chosen).cost
        assert budget.admits(*cost)
        full = [value for value, is_full in inside if is_full]
        assert filled(cost, budget) == bool(full)
        assert loss(found, chosen) == pytest.approx(min(full or [value for value, _ in inside]), abs=1e-6)
        seen["found"] += 1
        seen["unfilled"] += not full
        for other in (uniform(graph, found, budget), local(graph, found, budget)):
            assert budget.admits(*grouped(graph, found, other).cost)
            assert loss(found, other) >= min(value for value, _ in inside) - 1e-9
    assert min(seen.values()) > 0


def _networks():
    yield from (random_graph(seed, steps=12) for seed in range(1000, 1040))
    for widths in ([64, 128, 256, 256, 512], [24, 36, 48, 60, 96, 120], [16] * 12, [32, 64] * 8, [30, 210, 42, 64]):
        yield chain(widths, 32)


def test_two_hundred_budgets_are_kept():
    """Random networks and budgets on parameters, multiply-adds and both: never passed, and filled to 3 % where that can be."""
    rng, pairs, unfilled = np.random.default_rng(0), 0, 0
    networks = [graph for graph in _networks() if any(len(table.options) > 1 for table in made_up(graph, 0))]
    while pairs < 200:
        graph = networks[pairs % len(networks)]
        found = made_up(graph, pairs)
        budget = budgets(graph, found, rng, KINDS[pairs % 3])
        try:
            chosen = configured(graph, found, budget)
        except UsageError:
            assert not budget.admits(*smallest(graph, found))
            continue
        finally:
            pairs += 1
        cost = grouped(graph, found, chosen).cost
        assert budget.admits(*cost)
        if not filled(cost, budget):
            unfilled += 1
            assert not _fillable(graph, found, budget)
        for other in (uniform(graph, found, budget), local(graph, found, budget)):
            assert budget.admits(*grouped(graph, found, other).cost)
    assert unfilled < 100


def _fillable(graph, found, budget):
    """Whether some configuration comes within 3 % of a limit: the most of each that can be spent, by a knapsack of its own."""
    fixed = [whole - sum(t.options[0].cost[n] for t in found) for n, whole in enumerate(graph.cost)]
    for n, limit in enumerate((budget.params, budget.macs)):
        if limit is None:
            continue
        others = [m for m in range(2) if (budget.params, budget.macs)[m] is not None]
        costs = [[[option.cost[m] for m in others] for option in table.options] for table in found]
        limits = [(budget.params, budget.macs)[m] - fixed[m] for m in others]
        best = choose([[option.cost[n] for option in table.options] for table in found], costs, limits)
        if best is not None:
            spent = fixed[n] + sum(t.options[i].cost[n] for t, i in zip(found, best, strict=True))
            if spent >= FILLED * limit:
                return True
    return False


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenet_v2", "densenet121"))]
)
def test_torchvisions_networks_inside_budgets(name):
    graph = trace(named(name), 32).architecture
    found = made_up(graph, 0)
    for share, kind in itertools.product((0.9, 0.5, 0.3), KINDS):
        budget = Budget(
            *(int(share * n) if kind in (k, "both") else None for k, n in zip(KINDS, graph.cost, strict=False))
        )
        if not budget.admits(*smallest(graph, found)):
            with pytest.raises(UsageError, match=r"the smallest has"):
                configured(graph, found, budget)
            continue
        chosen, other = configured(graph, found, budget), local(graph, found, budget)
        cost = grouped(graph, found, chosen).cost
        assert budget.admits(*cost)
        assert filled(cost, budget)
        assert loss(found, chosen) <= loss(found, other) + 1e-6 or not filled(grouped(graph, found, other).cost, budget)


def test_without_limits_nothing_is_cut():
    graph = chain([8, 12, 12])
    found = made_up(graph, 0)
    for chosen in (configured(graph, found, Budget()), uniform(graph, found, Budget()), local(graph, found, Budget())):
        assert [option.groups for option in chosen] == [1, 1, 1]


@pytest.mark.parametrize("budget", [Budget(params=100), Budget(macs=1000), Budget(params=100, macs=10**9)])
def test_the_smallest_network_is_named(budget):
    graph = chain([8, 12, 12])
    found = made_up(graph, 0)
    least = grouped(graph, found, [table.options[-1] for table in found]).cost
    assert smallest(graph, found) == least
    message = rf"the smallest has {least.params:,} params and {least.macs:,} macs; raise the budget"
    with pytest.raises(UsageError, match=re.escape(message)):
        configured(graph, found, budget)
    configured(graph, found, Budget(*least))  # and that one is possible


# ---------------------------------------------------------------- tables and the others
def test_tables():
    graph = chain([8, 12, 12])
    state = weights(graph)
    found = tables(graph, criteria(graph, state))
    assert [table.name for table in found] == ["c0", "c1", "c2"]
    assert [[option.groups for option in table.options] for table in found] == [[1], [1, 2, 4], [1, 2, 3, 4, 6, 12]]
    for table in found:
        for option in table.options:
            assert grouped(graph, [table], [option]).cost == Cost(
                graph.params - table.options[0].cost.params + option.cost.params,
                graph.macs - table.options[0].cost.macs + option.cost.macs,
            )
            share = 1.0 if option.alone is None else kept(table.criterion, *option.alone, option.groups)
            assert option.lost == pytest.approx(1 - share)
            assert 0 <= option.lost <= 1 - 1 / option.groups + 1e-9  # no worse than chance
    few = tables(graph, {"c2": np.ones((12, 12))}, most_groups=4, weights={"c2": 2.0})
    assert [(table.name, table.weight, len(table.options)) for table in few] == [("c2", 2.0, 4)]


def test_layers_that_are_grouped_already_or_shared_have_no_table():
    nodes = [
        Node("first", Convolution(3, 8, (1, 1)), (INPUT,)),
        Node("grouped", Convolution(8, 8, (3, 3), padding=(1, 1), groups=2), ("first",)),
        Node("deep", Convolution(8, 8, (3, 3), padding=(1, 1), groups=8), ("grouped",)),
        Node("twice", Convolution(8, 8, (1, 1)), ("deep",)),
        Node("again", Convolution(8, 8, (1, 1)), ("twice",), shares="twice"),
        Node("own", Convolution(8, 8, (1, 1)), ("again",)),
        Node("pool", AdaptivePool(), ("own",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(8, 4), ("flat",)),
    ]
    graph = GraphArchitecture(3, 8, 4, tuple(nodes))
    assert [node.name for node, _ in groupable(graph)] == ["first", "own"]
    assert set(criteria(graph, weights(graph))) == {"first", "own"}


def test_uniform_takes_the_fewest_groups_that_fit():
    graph = chain([8, 12, 12, 24])
    found = made_up(graph, 0)
    for divisor in (1.0, 1.5, 2.5, 4.0):
        budget = Budget(params=int(graph.params / divisor))
        chosen = uniform(graph, found, budget)
        groups = max(option.groups for option in chosen)
        for table, option in zip(found, chosen, strict=True):
            assert option.groups == max(o.groups for o in table.options if o.groups <= groups)
        for fewer in range(1, groups):
            smaller = [max((o for o in t.options if o.groups <= fewer), key=lambda o: o.groups) for t in found]
            assert not budget.admits(*grouped(graph, found, smaller).cost)


# ---------------------------------------------------------------- criteria
def test_criteria_are_what_they_are_called():
    graph = chain([8, 12])
    state = weights(graph)
    weight = state["c1.weight"]
    assert criteria(graph, state)["c1"] == pytest.approx(weight.abs().sum(dim=(2, 3)).numpy())
    assert criteria(graph, state, "l2")["c1"] == pytest.approx(weight.square().sum(dim=(2, 3)).sqrt().numpy())
    assert criteria(graph, {k: v.float() for k, v in state.items()})["c1"].dtype == np.float64


def test_taylor_is_the_gradient_times_the_weight():
    """Against differences: the loss where one kernel is scaled. Several batches give what one of all their images gives."""
    graph = chain([4, 6])
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights(graph).items()}
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, 9, 9), torch.randint(0, 4, (6,))
    found = criteria(graph, state, "taylor", [(x, y)])
    parts = criteria(graph, state, "taylor", [(x[:2], y[:2]), (x[2:], y[2:])])
    assert found["c1"].shape == (6, 4)
    for name, matrix in found.items():
        assert parts[name] == pytest.approx(matrix, rel=1e-4)
    from igcsearch.nn.graph import GraphNetwork

    network = GraphNetwork(graph).double().eval()
    network.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in state.items()})
    loss = torch.nn.functional.cross_entropy
    weight = network.layer("c1").weight
    expected = np.zeros((6, 4))
    with torch.no_grad():
        for (i, j), (r, c) in itertools.product(
            itertools.product(range(6), range(4)), itertools.product(range(3), range(3))
        ):
            kernel = weight[i, j, r, c].clone()
            ends = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                weight[i, j, r, c] = kernel * factor
                ends.append(float(loss(network(x.double()), y)))
            weight[i, j, r, c] = kernel
            expected[i, j] += abs(ends[0] - ends[1]) / 2e-5
    assert found["c1"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_criteria_in_the_networks_own_precision():
    graph = chain([4, 6])
    x, y = torch.randn(2, 3, 9, 9, dtype=torch.float64), torch.tensor([0, 1])
    assert criteria(graph, weights(graph), "taylor", [(x, y)])["c1"].shape == (6, 4)


def test_criteria_that_cannot_be():
    graph = chain([4, 6])
    state = weights(graph)
    with pytest.raises(UsageError, match=r"unknown criterion 'l3' \(did you mean .*l1"):
        criteria(graph, state, "l3")
    with pytest.raises(UsageError, match=r"taylor needs images"):
        criteria(graph, state, "taylor")


# ---------------------------------------------------------------- latency
def timed(found, seed, rest=(1.0, 2.0)):
    """Made-up milliseconds: now and then slower with more groups, and another order in the other memory format."""
    rng = np.random.default_rng(seed)
    rows = [[(rng.uniform(0.2, 1), rng.uniform(0.2, 1)) for _ in table.options] for table in found]
    return Times(rest, tuple(tuple((float(a), float(b)) for a, b in row) for row in rows))


@pytest.mark.parametrize("seed", range(12))
def test_a_limit_on_latency_is_met_at_least_loss(seed):
    graph = chain([8, 12, 8, 16])
    found = made_up(graph, seed)
    times = timed(found, seed)
    every = list(itertools.product(*(range(len(table.options)) for table in found)))
    limit = float(np.quantile([times.predicted(each) for each in every], 0.2))
    macs = int(0.9 * graph.macs)
    budget = Budget(macs=macs, latency_ms=limit)

    def lost(each):
        return sum(table.weight * table.options[i].lost for table, i in zip(found, each, strict=True))

    def saved(each):
        return sum(
            table.options[0].cost.macs - table.options[i].cost.macs for table, i in zip(found, each, strict=True)
        )

    inside = [each for each in every if times.predicted(each) <= limit and graph.macs - saved(each) <= macs]
    full = [each for each in inside if graph.macs - saved(each) >= FILLED * macs]
    chosen = configured(graph, found, budget, times)
    picked = [table.options.index(option) for table, option in zip(found, chosen, strict=True)]
    assert times.predicted(picked) <= limit + 1e-9
    assert lost(picked) == pytest.approx(min(map(lost, inside)), abs=1e-6) or lost(picked) == pytest.approx(
        min(map(lost, full)), abs=1e-6
    )
    same = uniform(graph, found, budget, times)
    if same is not None:
        assert times.predicted([t.options.index(o) for t, o in zip(found, same, strict=True)]) <= limit


def test_where_nothing_does_harm_less_is_cut():
    graph = chain([8, 12, 8, 16])
    found = [
        dataclasses.replace(
            table,
            options=tuple(
                dataclasses.replace(option, harm=0.0, lost=1 - 1 / option.groups) for option in table.options
            ),
        )
        for table in made_up(graph, 0)
    ]
    budget = Budget(macs=int(0.7 * graph.macs))
    lost = [sum(option.lost for option in configured(graph, each, budget)) for each in (found, made_of_lost(found))]
    assert lost[0] == pytest.approx(lost[1])


def made_of_lost(found):
    return [
        dataclasses.replace(
            table, weight=1.0, options=tuple(dataclasses.replace(option, harm=None) for option in table.options)
        )
        for table in found
    ]


def test_a_latency_out_of_reach_says_the_fastest():
    graph = chain([8, 12, 8, 16])
    found = made_up(graph, 0)
    times = timed(found, 0)
    fastest = 1.0 + sum(min(min(pair) for pair in of) for of in times.options)
    with pytest.raises(UsageError, match=r"within 0\.5 ms") as raised:
        configured(graph, found, Budget(latency_ms=0.5), times)
    said = float(re.search(r"takes about ([\d.]+) ms", str(raised.value))[1])
    assert fastest - 1e-3 <= said
    assert uniform(graph, found, Budget(latency_ms=0.5), times) is None
