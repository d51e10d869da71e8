"""Masks and group convolutions: one network in two forms, whatever the layers and their group counts; what orders keep."""

import math
import random

import numpy as np
import pytest
import torch

from igcsearch.compress.channels import channels_of
from igcsearch.compress.convert import converted, expanded, masked
from igcsearch.compress.criterion import criteria, groupable
from igcsearch.compress.orders import Grouped, settle
from igcsearch.compress.trace import trace
from igcsearch.errors import UsageError
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, Add, Convolution, Flatten, Gather, Linear

from .networks import LONG, QUICK, difference, images, named, outputs, random_graph, weights


def layers_of(graph, state, gather, seed=0, most=8):
    """Random group counts, criteria by the weights. gather: "tied" none, "gathered" all, "some" every other."""
    rng, found = random.Random(seed), []
    matrices = criteria(graph, state)
    for number, (node, convolution) in enumerate(groupable(graph)):
        common = math.gcd(convolution.in_channels, convolution.out_channels)
        groups = rng.choice([g for g in range(1, most + 1) if common % g == 0])
        own = gather == "gathered" or (gather == "some" and number % 2 == 0)
        found.append(Grouped(node.name, node.reads[0], matrices[node.name], groups, rng.uniform(0.5, 2), own))
    return found


def check_conversion(graph, state, gather, seed=0, rounds=1, starts=1):
    """Masked and converted networks give the same; what is said to be kept is what the masks keep."""
    channels, layers = channels_of(graph), layers_of(graph, state, gather, seed)
    orders = settle(channels, layers, seed=seed, rounds=rounds, starts=starts)
    zeroed = masked(state, orders)
    made, moved = converted(graph, zeroed, channels, layers, orders)
    dense, dense_moved = converted(graph, state, channels, layers, orders)
    assert dense == made
    x = images(graph)
    expected = outputs(graph, zeroed, x)
    assert difference(outputs(made, moved, x), expected) < 1e-10
    assert all(torch.equal(dense_moved[name], tensor) for name, tensor in moved.items())
    assert difference(outputs(made, moved, x, torch.float32).double(), expected) < 1e-5
    for layer in layers:
        assert made.node(layer.name).operation.groups == layer.groups
        assert sorted(np.bincount(orders.rows[layer.name])) == [len(layer.criterion) // layer.groups] * layer.groups
        before, after = (s[f"{layer.name}.weight"].abs().sum() for s in (state, zeroed))
        assert orders.kept[layer.name] == pytest.approx(float(after / before))
        inside = orders.rows[layer.name][:, None] == orders.columns[layer.name]
        assert inside.sum() * _area(graph, layer) == moved[f"{layer.name}.weight"].numel()
    gathers = len(made.nodes) - len(graph.nodes)
    assert gathers <= sum(layer.gather for layer in layers)
    assert made.params == graph.params - sum(
        each.criterion.size * _area(graph, each) * (each.groups - 1) // each.groups for each in layers
    )
    return orders


def _area(graph, layer):
    return math.prod(graph.node(layer.name).operation.kernel_size)


CHEAP = ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"]  # the others take 5 to 20 s each


@pytest.mark.parametrize(
    ("name", "gather"),
    [
        *((name, "some") for name in CHEAP),
        *(
            pytest.param(name, gather, marks=pytest.mark.slow)
            for name in [*QUICK, *LONG]
            for gather in ("tied", "some", "gathered")
        ),
    ],
)
def test_torchvisions_networks(name, gather):
    found = trace(named(name), 64)
    check_conversion(found.architecture, found.state_dict, gather)


@pytest.mark.parametrize("gather", ["tied", "some", "gathered"])
def test_random_graphs(gather):
    layers = 0
    for seed in range(60):
        graph = random_graph(seed)
        layers += sum(c.in_channels > 3 for _, c in groupable(graph))
        check_conversion(graph, weights(graph, seed), gather, seed)
    assert layers > 60


def special(operation):
    """A convolution of 12 channels to 18 between others, with a residual over the wide side."""
    nodes = [
        Node("first", Convolution(3, 12, (3, 3), padding=(1, 1), bias=True), (INPUT,)),
        Node("act", Activation("relu"), ("first",)),
        Node("it", operation, ("act",)),
        Node("more", Convolution(18, 18, (1, 1), bias=True), ("it",)),
        Node("sum", Add(), ("more", "it")),
        Node("pool", AdaptivePool(), ("sum",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(18, 4), ("flat",)),
    ]
    return GraphArchitecture(3, 9, 4, tuple(nodes))


@pytest.mark.parametrize("gather", ["tied", "gathered"])
@pytest.mark.parametrize(
    "operation",
    [
        Convolution(12, 18, (3, 3), bias=True),
        Convolution(12, 18, (3, 1), (2, 1), (1, 0), bias=True),
        Convolution(12, 18, (3, 3), padding=(2, 2), dilation=(2, 2)),
        Convolution(12, 18, (3, 3), padding=(2, 1), bias=True, padding_mode="reflect"),
        Convolution(12, 18, (3, 3), padding=(1, 1), padding_mode="replicate"),
        Convolution(12, 18, (2, 3), padding=(1, 1), bias=True, padding_mode="circular"),
    ],
)
def test_every_kind_of_layer(operation, gather):
    graph = special(operation)
    for seed in range(3):
        check_conversion(graph, weights(graph, seed), gather, seed, rounds=3, starts=2)


class Excited(torch.nn.Module):
    """Squeeze and excitation by linear layers, over a map that convolutions of the same width read and write."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = (torch.nn.Conv2d(inner, 12, 3, padding=1) for inner in (3, 12))
        self.fc1, self.fc2, self.fc = torch.nn.Linear(12, 4), torch.nn.Linear(4, 12), torch.nn.Linear(12, 5)

    def forward(self, x):
        y = self.stem(x)
        gate = self.fc2(self.fc1(y.mean((2, 3))).relu()).sigmoid().view(-1, 12, 1, 1)
        return self.fc(self.last(y * gate.expand_as(y)).mean((2, 3)))


@pytest.mark.parametrize("gather", ["tied", "gathered"])
def test_gates_of_linear_layers_move_with_their_channels(gather):
    torch.manual_seed(0)
    found = trace(Excited().double(), 8)
    groups = set()
    for seed in range(4):
        orders = check_conversion(found.architecture, found.state_dict, gather, seed, rounds=3)
        groups |= {len(set(rows.tolist())) for rows in orders.rows.values()}
    assert max(groups) > 1


def test_tied_networks_have_no_gathers():
    found = trace(named("resnet18"), 64)
    graph, state = found.architecture, found.state_dict
    channels, layers = channels_of(graph), layers_of(graph, state, "tied")
    orders = settle(channels, layers, rounds=0, starts=1)
    made, _ = converted(graph, state, channels, layers, orders)
    assert orders.gathers == {}
    assert not any(isinstance(node.operation, Gather) for node in made.nodes)
    assert [node.name for node in made.nodes] == [node.name for node in graph.nodes]


def total(orders, layers):
    return sum(layer.weight * layer.criterion.sum() * orders.kept[layer.name] for layer in layers)


@pytest.mark.parametrize("seed", range(4))
def test_gathers_keep_no_less(seed):
    """A layer with an order of its own can have that of the others too, and the search finds no worse."""
    graph = special(Convolution(12, 18, (3, 3), bias=True)) if seed % 2 else trace(_narrow(), 16).architecture
    state, channels = weights(graph, seed), channels_of(graph)
    tied, gathered = layers_of(graph, state, "tied", seed), layers_of(graph, state, "gathered", seed)
    assert total(settle(channels, gathered, seed=seed), gathered) >= total(settle(channels, tied, seed=seed), tied)


def _narrow():
    from torchvision.models import resnet

    torch.manual_seed(0)
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=4, width_per_group=64)


def test_orders_beat_the_channels_own():
    """Blocks hidden by permutations of the hidden channels are found again, all of them."""
    graph = special(Convolution(12, 18, (3, 3)))
    state, rng = weights(graph), np.random.default_rng(0)
    inside = np.repeat(np.arange(6), 3)[rng.permutation(18)][:, None] == np.repeat(np.arange(6), 2)[rng.permutation(12)]
    state["it.weight"] = state["it.weight"] * torch.from_numpy(inside)[:, :, None, None]
    layer = Grouped("it", "act", criteria(graph, state)["it"], 6)
    orders = settle(channels_of(graph), [layer])
    assert orders.kept == {"it": pytest.approx(1.0)}
    assert all(torch.equal(state[name], tensor) for name, tensor in masked(state, orders).items())


def test_the_same_seed_gives_the_same_orders():
    graph = random_graph(11)
    state = weights(graph)
    layers, channels = layers_of(graph, state, "some"), channels_of(graph)
    first, second = (settle(channels, layers, seed=3) for _ in range(2))
    assert first.kept == second.kept
    assert (first.stored == second.stored).all()


def test_sparse_convolutions_stay_as_they_are():
    nodes = [
        Node("first", Convolution(3, 8, (3, 3)), (INPUT,)),
        Node("second", Convolution(8, 8, (3, 3)), ("first",)),
        Node("sparse", Convolution(8, 12, (3, 3), sparsity=(1, 4)), ("second",)),
        Node("third", Convolution(12, 12, (1, 1)), ("sparse",)),
        Node("pool", AdaptivePool(), ("third",)),
        Node("flat", Flatten(), ("pool",)),
    ]
    graph = GraphArchitecture(3, 9, 12, tuple(nodes))
    assert [node.name for node, _ in groupable(graph)] == ["first", "second", "third"]
    for gather in ("tied", "gathered"):
        check_conversion(graph, weights(graph), gather)


def test_without_layers_nothing_happens():
    graph = random_graph(3)
    state, channels = weights(graph), channels_of(graph)
    orders = settle(channels, [])
    made, moved = converted(graph, state, channels, [], orders)
    assert made == graph
    assert all(torch.equal(state[name], tensor) for name, tensor in moved.items())


@pytest.mark.parametrize("groups", [4, 0, 5, -2, 24])
def test_groups_that_do_not_divide_are_refused(groups):
    with pytest.raises(
        UsageError, match=rf"^{groups} groups do not divide the 18 output and 12 input channels of 'it'; .* 6$"
    ):
        Grouped("it", "act", np.ones((18, 12)), groups)


@pytest.mark.parametrize(
    ("name", "source", "shape", "message"),
    [
        ("that", "act", (18, 12), r"no node 'that'"),
        ("it", "first", (18, 12), r"'it' does not read 'first' alone"),
        ("it", "act", (12, 18), r"criterion of 'it' is 12 x 18; its layer has 18 output and 12 input channels"),
        ("sum", "it", (18, 18), r"'sum' is no dense convolution with weights of its own"),
        ("fc", "flat", (4, 18), r"'fc' is no dense convolution with weights of its own"),
    ],
)
def test_layers_that_cannot_be_grouped_are_refused(name, source, shape, message):
    graph = special(Convolution(12, 18, (3, 3)))
    state, channels = weights(graph), channels_of(graph)
    layers = [Grouped(name, source, np.ones(shape), 2)]
    with pytest.raises(UsageError, match=message):
        converted(graph, state, channels, layers, settle(channels, layers))


@pytest.mark.parametrize("gather", ["tied", "gathered", "some"])
@pytest.mark.parametrize("seed", range(3))
def test_expanded_is_dense_again(seed, gather):
    graph = random_graph(seed)
    state = weights(graph, seed)
    channels, layers = channels_of(graph), layers_of(graph, state, gather, seed)
    made, moved = converted(graph, state, channels, layers, settle(channels, layers, seed=seed, rounds=1, starts=1))
    dense = expanded(graph, made, moved)
    assert {name: t.shape for name, t in dense.items()} == {name: t.shape for name, t in state.items()}
    x = images(graph)
    assert difference(outputs(graph, dense, x), outputs(made, moved, x)) < 1e-10
    for layer in layers:
        zeros = int((dense[f"{layer.name}.weight"] == 0).sum())
        assert zeros >= dense[f"{layer.name}.weight"].numel() * (layer.groups - 1) // layer.groups
