"""Graph networks made ready for inference: units, plans, memory formats, times; against the plain network."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from igcsearch.errors import UsageError
from igcsearch.nn.fused.sparse import SparseRun
from igcsearch.nn.graph import GraphNetwork
from igcsearch.nn.graph_inference import GraphInference, unit_layer, unit_ms
from igcsearch.nn.graph_units import Unit, sparsities, units, without_norms
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import (
    Activation,
    AdaptivePool,
    Add,
    BatchNorm,
    Concat,
    Convolution,
    Flatten,
    Gather,
    Linear,
)

WIDTH = 16


def conv(groups=1, size=3, stride=1, bias=False):
    pad = size // 2
    return Convolution(WIDTH, WIDTH, (size, size), (stride, stride), (pad, pad), groups=groups, bias=bias)


def residual(groups=4, *, gather=True, add=("norm2", "pool0")):
    """Stem, then gather, convolution, norm, ReLU, convolution, norm, a residual, ReLU; a shared convolution; a concat; the head."""
    order = tuple(int(i) for i in np.random.default_rng(0).permutation(WIDTH))
    nodes = [
        Node("stem", Convolution(3, WIDTH, (3, 3), padding=(1, 1)), (INPUT,)),
        Node("pool0", Activation("silu"), ("stem",)),
        *([Node("gather", Gather(order=order), ("pool0",))] if gather else []),
        Node("conv1", conv(groups), ("gather" if gather else "pool0",)),
        Node("norm1", BatchNorm(WIDTH), ("conv1",)),
        Node("relu1", Activation("relu"), ("norm1",)),
        Node("conv2", conv(groups, 1, bias=True), ("relu1",)),
        Node("norm2", BatchNorm(WIDTH), ("conv2",)),
        Node("sum", Add(), add),
        Node("relu2", Activation("relu6"), ("sum",)),
        Node("tied", conv(groups), ("relu2",)),
        Node("again", conv(groups), ("tied",), shares="tied"),
        Node("both", Concat(), ("again", "relu2")),
        Node("pool", AdaptivePool(), ("both",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(2 * WIDTH, 5), ("flat",)),
    ]
    return GraphArchitecture(3, 8, 5, tuple(nodes))


def network(graph, seed=0):
    """With random weights and norms."""
    torch.manual_seed(seed)
    net = GraphNetwork(graph).eval()
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else 0.3 * torch.randn_like(tensor))
    return net


# ---------------------------------------------------------------- structure
def test_units_take_gather_activation_and_residual():
    graph, norms = without_norms(residual())
    found = units(graph)
    assert norms == {"norm1": "conv1", "norm2": "conv2"}
    assert list(found) == ["stem", "relu1", "relu2", "tied", "again"]
    assert found["relu1"].nodes == ("gather", "conv1", "relu1")
    assert (found["relu1"].activation, found["relu1"].reads) == ("relu", ("pool0",))
    assert found["relu2"].nodes == ("conv2", "sum", "relu2")
    assert (found["relu2"].residual, found["relu2"].final, found["relu2"].activation) == ("pool0", "relu6", None)
    assert found["stem"].nodes == ("stem",)  # silu is not among the kernels'


def test_a_sum_of_two_convolutions_belongs_to_one_with_groups():
    nodes = [
        Node("dense", Convolution(3, WIDTH, (1, 1)), (INPUT,)),
        Node("first", Convolution(3, WIDTH, (1, 1)), (INPUT,)),
        Node("grouped", conv(4, 1), ("first",)),
        Node("sum", Add(), ("dense", "grouped")),
        Node("relu", Activation("relu"), ("sum",)),
        Node("pool", AdaptivePool(), ("relu",)),
        Node("flat", Flatten(), ("pool",)),
    ]
    found = units(GraphArchitecture(3, 8, WIDTH, tuple(nodes)))
    assert list(found) == ["dense", "first", "relu"]
    assert found["relu"].node.name == "grouped"
    assert found["relu"].residual == "dense"


@pytest.mark.parametrize("size", [(1, 1), (WIDTH, 8, 8)])
def test_what_is_added_to_itself_or_of_another_shape_stays_outside(size):
    graph = residual(add=("norm2", "norm2")) if size != (1, 1) else residual()
    if size == (1, 1):
        nodes = list(graph.nodes)
        at = next(i for i, node in enumerate(nodes) if node.name == "sum")
        nodes[at : at + 1] = [Node("one", AdaptivePool(), ("pool0",)), Node("sum", Add(), ("norm2", "one"))]
        graph = GraphArchitecture(3, 8, 5, tuple(nodes))
    assert "conv2" in units(without_norms(graph)[0])
    images = torch.randn(2, 3, 8, 8)
    net = network(graph)
    with torch.no_grad():
        torch.testing.assert_close(GraphInference(net)(images), net(images))


# ---------------------------------------------------------------- results
@pytest.mark.parametrize(("channels_last", "plan"), list(itertools.product((False, True), ("default", "stock"))))
def test_the_same_logits_by_every_plan(channels_last, plan):
    net = network(residual())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ready = GraphInference(net, None if plan == "default" else ["stock"] * 5, channels_last)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        wanted = net(images)
        first = ready(images)
        torch.testing.assert_close(first, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        again = ready(torch.randn(3, 3, 8, 8))
    assert not torch.equal(first, again)
    torch.testing.assert_close(first, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))  # nothing overwrote it
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("size", "stride", "groups", "gather", "activation", "more"),
    list(itertools.product((1, 3), (1, 2), (2, 16), (False, True), (None, "hardswish"), (False, True))),
)
def test_fused_is_stock(size, stride, groups, gather, activation, more):
    order = Gather(order=tuple(reversed(range(WIDTH))))
    it = conv(groups, size, stride, bias=True)
    source = Node("gather", order, (INPUT,)) if gather else None
    unit = Unit(Node("it", it, (INPUT,)), source, activation, "more" if more else None, "relu" if more else None)
    layer = nn.Conv2d(WIDTH, WIDTH, size, stride, size // 2, groups=groups)
    images = torch.randn(2, WIDTH, 7, 7)
    with torch.no_grad():
        stock, fused = (unit_layer(unit, layer, plan) for plan in ("stock", "fused"))
        rest = torch.randn_like(stock(images)) if more else None
        torch.testing.assert_close(
            fused(images, rest, unit.final), stock(images, rest, unit.final), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "other",
    [
        Convolution(WIDTH, WIDTH, (3, 3), padding=(0, 0), groups=4),
        Convolution(WIDTH, WIDTH, (3, 1), padding=(1, 0), groups=4),
        Convolution(WIDTH, WIDTH, (3, 3), (1, 2), (1, 1), groups=4),
        Convolution(WIDTH, WIDTH, (3, 3), padding=(2, 2), dilation=(2, 2), groups=4),
        Convolution(WIDTH, WIDTH, (3, 3), padding=(1, 1), groups=4, padding_mode="reflect"),
        Convolution(WIDTH, WIDTH, (4, 4), padding=(2, 2), groups=4),
        Convolution(WIDTH, WIDTH, (3, 3), padding=(1, 1)),
    ],
)
def test_what_no_kernel_computes_runs_stock(other):
    graph = residual()
    nodes = [Node(n.name, other, n.reads) if n.name == "conv1" else n for n in graph.nodes if n.name != "sum"]
    nodes = [Node(n.name, n.operation, ("norm2",)) if n.name == "relu2" else n for n in nodes]
    graph = GraphArchitecture(3, 8, 5, tuple(nodes))
    ready = GraphInference(net := network(graph))
    assert ready.plans[1] == "stock"
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ready(images), net(images), rtol=1e-4, atol=1e-4)


def test_without_its_classifier_it_gives_features():
    net = network(residual())
    net.remove_classifier()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        made = GraphInference(net)(images)
    assert made.shape == (2, 2 * WIDTH)


def test_logits_that_are_a_view_of_a_map_are_kept():
    nodes = [
        Node("it", Convolution(4, 8, (8, 8), groups=4), (INPUT,)),
        Node("more", Convolution(8, 8, (1, 1), groups=4), ("it",)),
    ]
    graph = GraphArchitecture(4, 8, 8, (*nodes, Node("flat", Flatten(), ("more",))))
    ready = GraphInference(network(graph))
    images = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        first = ready(images)
        kept = first.clone()
        ready(2 * images)
    assert torch.equal(first, kept)


def test_wrong_plans_and_types_are_refused():
    net = network(residual())
    with pytest.raises(UsageError, match="2 plans were given for 5 convolutions"):
        GraphInference(net, ["stock", "stock"])
    with pytest.raises(UsageError, match="float32"):
        net.optimize_for_inference(torch.randn(1, 3, 8, 8).double())
    with pytest.raises(RuntimeError, match="should be the same"):
        GraphInference(net)(torch.randn(1, 3, 8, 8).double())


# ---------------------------------------------------------------- times
def test_measured_plans_are_the_fastest_of_known_times():
    asked = []

    def held(key, measure):
        asked.append(key)
        return {"stock": 1.0, "fused": 2.0} if len(asked) <= 5 else {"stock": 3.0, "fused": 2.0}

    known = SimpleNamespace(held=held, device=torch.device("cpu"), save=lambda: None)
    ready = network(residual()).optimize_for_inference(known=known)
    assert set(ready.plans) == {"stock"}
    assert not ready.channels_last
    assert len(asked) == 10


def sparse(sparsity=(1, 4)):
    graph = residual(gather=False)
    nodes = [
        replace(node, operation=replace(node.operation, sparsity=sparsity)) if node.name in ("conv1", "conv2") else node
        for node in graph.nodes
    ]
    return graph.with_nodes(nodes)


def test_sparse_convolutions_run_from_what_is_kept():
    graph = sparse()
    found = units(without_norms(graph)[0], sparsities(graph))
    plain = units(without_norms(residual(gather=False))[0])
    assert [str(unit.sparsity) for unit in found.values() if unit.sparsity] == ["1:4", "1:4"]
    assert {found[name].key == plain[name].key for name in found if found[name].sparsity} == {False}
    net = network(graph)
    plans = ["sparse" if unit.sparsity else "stock" for unit in found.values()]
    ready, images = GraphInference(net, plans), torch.randn(3, 3, 8, 8)
    assert sum(isinstance(unit, SparseRun) for unit in ready.units) == 2
    with torch.no_grad():
        wanted = net(images)
        torch.testing.assert_close(ready(images), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_a_sparse_unit_is_timed_by_all_its_plans():
    graph = sparse()
    unit = units(without_norms(graph)[0], sparsities(graph))["relu2"]
    known = SimpleNamespace(held=lambda key, measure: measure(), device=torch.device("cpu"))
    times = unit_ms(unit, (1, WIDTH, 8, 8), (1, WIDTH, 8, 8), False, known)
    assert set(times) == {"stock", "fused", "sparse"}
    assert min(times.values()) > 0


def test_a_unit_and_a_network_are_timed():
    net = network(residual())
    unit = units(without_norms(net.architecture)[0])["relu2"]
    known = SimpleNamespace(held=lambda key, measure: measure(), device=torch.device("cpu"))
    shape = (1, WIDTH, 8, 8)
    times = unit_ms(unit, shape, shape, True, known)
    assert set(times) == {"stock", "fused"}
    assert min(times.values()) > 0
    layers, total = GraphInference(net).layer_ms(torch.randn(1, 3, 8, 8), runs=3)
    assert set(layers) == {"stem", "conv1", "conv2", "tied", "again"}
    assert 0 < sum(layers.values()) < total
