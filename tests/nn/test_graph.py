"""Networks of graphs: every operation against torch's own, names, shared modules, copies, memory, fvcore's count."""

import copy
import math
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import (
    GRAPH_ACTIVATIONS,
    Activation,
    AdaptivePool,
    Add,
    BatchNorm,
    Concat,
    Convolution,
    Dropout,
    Flatten,
    Gather,
    Linear,
    Multiply,
    Pad,
    Slice,
    Window,
)

X = torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def run(operation, layer=None, *, before=(), reads=(INPUT,)):
    """What an operation makes of X (or of nodes before it), by a network whose logits are all of it, flattened."""
    shapes = {INPUT: tuple(X.shape[1:])}
    for node in before:
        shapes[node.name] = node.operation.shape(*(shapes[name] for name in node.reads))
    shape = operation.shape(*(shapes[name] for name in reads))
    nodes = (*before, Node("it", operation, tuple(reads)), Node("flat", Flatten(), ("it",)))
    network = GraphNetwork(GraphArchitecture(6, 9, math.prod(shape), nodes)).double().eval()
    if layer is not None:
        network.layer("it").load_state_dict(layer.double().state_dict())
    with torch.no_grad():
        return network(X).reshape(len(X), *shape)


def small(*names):
    """Convolution, norm, activation, the same convolution again, head; under the given names."""
    conv, norm, act, more, pool, flat, fc = names or ("a.conv", "a.norm", "a.act", "b", "pool", "flat", "fc")
    nodes = [
        Node(conv, Convolution(6, 6, (3, 3), padding=(1, 1), bias=True), (INPUT,)),
        Node(norm, BatchNorm(6), (conv,)),
        Node(act, Activation("relu"), (norm,)),
        Node(more, Convolution(6, 6, (3, 3), padding=(1, 1), bias=True), (act,), shares=conv),
        Node(pool, AdaptivePool(), (more,)),
        Node(flat, Flatten(), (pool,)),
        Node(fc, Linear(6, 3), (flat,)),
    ]
    return GraphArchitecture(6, 9, 3, tuple(nodes))


# ---------------------------------------------------------------- operations
@pytest.mark.parametrize(
    ("operation", "module"),
    [
        (
            Convolution(6, 4, (3, 2), (2, 1), (1, 2), (1, 2), 2, True),
            nn.Conv2d(6, 4, (3, 2), (2, 1), (1, 2), (1, 2), 2),
        ),
        (
            Convolution(6, 6, (3, 3), padding=(2, 1), groups=6, padding_mode="reflect"),
            nn.Conv2d(6, 6, 3, padding=(2, 1), groups=6, bias=False, padding_mode="reflect"),
        ),
        (
            Convolution(6, 2, (3, 3), padding=(2, 1), padding_mode="circular"),
            nn.Conv2d(6, 2, 3, padding=(2, 1), bias=False, padding_mode="circular"),
        ),
        (BatchNorm(6, 0.1), nn.BatchNorm2d(6, 0.1)),
        (BatchNorm(6, affine=False, momentum=None), nn.BatchNorm2d(6, affine=False, momentum=None)),
        (
            Window("max", (3, 2), (2, 1), (1, 0), (1, 2), True),
            nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2), ceil_mode=True),
        ),
        (Window("avg", (3, 2), (2, 3), (1, 1), ceil_mode=True), nn.AvgPool2d((3, 2), (2, 3), (1, 1), True)),
        (
            Window("avg", (3, 2), (2, 2), (1, 1), count_include_pad=False),
            nn.AvgPool2d((3, 2), 2, (1, 1), count_include_pad=False),
        ),
        (AdaptivePool(), nn.AdaptiveAvgPool2d(1)),
        (AdaptivePool("avg", (2, 4)), nn.AdaptiveAvgPool2d((2, 4))),
        (AdaptivePool("max", (1, 1)), nn.AdaptiveMaxPool2d(1)),
        (AdaptivePool("max", (4, 2)), nn.AdaptiveMaxPool2d((4, 2))),
        (Gather(groups=3), nn.ChannelShuffle(3)),
        (Flatten(), nn.Flatten()),
        (Dropout(0.5), nn.Identity()),
        (Dropout(0.5, "channel"), nn.Identity()),
        (Dropout(0.5, "image"), nn.Identity()),
    ],
)
def test_operations_do_what_torchs_modules_do(operation, module):
    torch.manual_seed(1)
    module = module.double().eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    found = run(operation, module if module.state_dict() else None)
    expected = module(X)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert operation.params == sum(parameter.numel() for parameter in module.parameters())


def test_operations_do_what_torchs_functions_do():
    sliced = Node("half", Slice(2, 5), (INPUT,))
    pooled = Node("pooled", AdaptivePool(), (INPUT,))
    assert torch.equal(run(Slice(1, 4, (2, 3))), X[:, 1:4, ::2, ::3])
    assert torch.equal(run(Pad((1, 2), (0, 3), (2, 0), -1.0)), F.pad(X, (2, 0, 0, 3, 1, 2), value=-1.0))
    assert torch.equal(run(Concat(), before=[sliced], reads=[INPUT, "half", INPUT]), torch.cat([X, X[:, 2:5], X], 1))
    assert torch.equal(run(Add(), reads=[INPUT] * 3), X + X + X)
    mean = X.mean((2, 3), keepdim=True)
    torch.testing.assert_close(run(Multiply(), before=[pooled], reads=["pooled", INPUT]), mean * X)
    torch.testing.assert_close(run(Add(), before=[pooled], reads=[INPUT, "pooled"]), mean + X)
    order = (3, 1, 0, 5, 4, 2)
    assert torch.equal(run(Gather(order=order)), X[:, list(order)])


def test_operations_on_flat_features():
    flat = Node("f", Flatten(), (INPUT,))
    x = X.flatten(1)
    assert torch.equal(run(Slice(3, 400), before=[flat], reads=["f"]), x[:, 3:400])
    assert torch.equal(run(Pad((1, 2), value=3.0), before=[flat], reads=["f"]), F.pad(x, (1, 2), value=3.0))
    assert torch.equal(run(Concat(), before=[flat], reads=["f", "f"]), torch.cat([x, x], 1))
    assert torch.equal(
        run(Gather(groups=9), before=[flat], reads=["f"]), x.reshape(2, 9, 54).transpose(1, 2).reshape(2, -1)
    )
    norm = nn.BatchNorm1d(486).double().eval()
    norm.running_mean.uniform_(-1, 1)
    torch.testing.assert_close(run(BatchNorm(486), norm, before=[flat], reads=["f"]), norm(x))


@pytest.mark.parametrize("kind", GRAPH_ACTIVATIONS)
def test_activations_are_torchs(kind):
    expected = F.softmax(X, dim=1) if kind == "softmax" else getattr(F, kind)(X)
    torch.testing.assert_close(run(Activation(kind)), expected)


def test_activations_have_their_numbers():
    torch.testing.assert_close(run(Activation("leaky_relu", slope=0.3)), F.leaky_relu(X, 0.3))
    torch.testing.assert_close(run(Activation("gelu", tanh=True)), F.gelu(X, approximate="tanh"))


def test_dropout_of_images_keeps_the_mean():
    nodes = (Node("drop", Dropout(0.25, "image"), (INPUT,)), Node("flat", Flatten(), ("drop",)))
    network = GraphNetwork(GraphArchitecture(1, 4, 16, nodes)).train()
    torch.manual_seed(0)
    with torch.no_grad():
        found = network(torch.ones(4000, 1, 4, 4))
    assert found.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert bool((found == found[:, :1]).all())  # a whole image or none of it
    assert float(found.mean()) == pytest.approx(1.0, abs=0.03)


# ---------------------------------------------------------------- names and copies
def test_parameters_stand_under_the_names_of_their_nodes():
    network = GraphNetwork(small())
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    norm = {f"a.norm.{key}": (6,) for key in ("weight", "bias", "running_mean", "running_var")}
    fc = {"fc.weight": (3, 6), "fc.bias": (3,)}
    assert shapes == {
        **{"a.conv.weight": (6, 6, 3, 3), "a.conv.bias": (6,)},
        **norm,
        **{"a.norm.num_batches_tracked": ()},
        **fc,
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == network.architecture.params
    assert network.layer("b") is network.layer("a.conv")


@pytest.mark.parametrize(
    "names",
    [
        ("train", "type", "forward", "half", "eval", "to", "parameters"),
        ("weight", "bias", "layer", "set_execution", "buffers", "__class__", "__dict__"),
        ("a.train", "a.a", "a.forward.type", "a.state_dict", "a.weight", "a.half.half", "children.modules"),
        ("a", "a.norm", "a.norm.act", "a.b", "c", "c.d", "c.d.e"),
        ("a.b", "a", "e.f", "g", "e", "h", "a.b.c"),
    ],
)
def test_any_name_will_do(names):
    torch.manual_seed(0)
    plain, network = GraphNetwork(small()).double().eval(), GraphNetwork(small(*names)).double().eval()
    renamed = dict(zip(("a.conv", "a.norm", "a.act", "b", "pool", "flat", "fc"), names, strict=True))
    state = {}
    for key, tensor in plain.state_dict().items():
        node, _, last = key.rpartition(".")
        state[f"{renamed[node]}.{last}"] = tensor
    network.load_state_dict(state)
    assert torch.equal(network(X), plain(X))
    assert network.train().training
    assert all(layer.training for layer in (network.layer(names[0]), network.layer(names[1])))
    assert torch.equal(copy.deepcopy(network).eval()(X), plain(X))
    assert next(network.float().parameters()).dtype == torch.float32
    assert sum(parameter.numel() for parameter in network.parameters()) == network.architecture.params


@pytest.mark.parametrize("name", ["training", "_modules", "architecture", "execution", "_last", "a.training"])
def test_names_that_torch_needs_are_refused(name):
    with pytest.raises(UsageError, match=rf"node '{name}': .* is an attribute of every module"):
        GraphNetwork(small("a", name, "act", "b", "pool", "flat", "fc"))


def test_a_copy_is_its_own():
    torch.manual_seed(0)
    network = GraphNetwork(small()).double().eval()
    copied = copy.deepcopy(network)
    before = network(X)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(network(X), before)
    assert not copied(X).any()
    assert copied.layer("b") is copied.layer("a.conv")
    assert copied.layer("b") is not network.layer("b")


def test_types_and_devices():
    network = GraphNetwork(small()).to(torch.bfloat16)
    assert network(X.to(torch.bfloat16)).dtype == torch.bfloat16
    assert network.double()(X).dtype == torch.float64
    meta = GraphNetwork(small()).to("meta")
    assert meta(torch.empty(2, 6, 9, 9, device="meta")).shape == (2, 3)
    gathered = run(Gather(order=(5, 4, 3, 2, 1, 0)))
    assert gathered.dtype == torch.float64


def test_gradients_reach_shared_parameters_from_every_use():
    torch.manual_seed(0)
    network = GraphNetwork(small()).double()
    conv, norm = network.layer("a.conv"), network.layer("a.norm")
    network(X).square().sum().backward()
    found = conv.weight.grad.clone()
    network.zero_grad()
    norm.reset_running_stats()
    hidden = conv(F.relu(norm(conv(X))))
    network.layer("fc")(hidden.mean((2, 3))).square().sum().backward()
    torch.testing.assert_close(found, conv.weight.grad)


def test_a_module_put_in_the_place_of_another_is_used():
    """Training over several processes swaps batch norms; a network that kept the old ones would train something else."""
    network = GraphNetwork(small()).double().eval()
    before = network(X)
    network.a.norm = nn.BatchNorm2d(6).double().eval()
    network.a.norm.running_mean.fill_(5.0)
    assert not torch.equal(network(X), before)
    assert network.layer("a.norm") is network.a.norm
    network.a.conv = nn.Conv2d(6, 6, 3, padding=1).double()
    assert network.layer("b") is network.a.conv


def test_unknown_executions_are_refused():
    network = GraphNetwork(small(), "plain")
    assert network.set_execution("auto") is network
    with pytest.raises(UsageError, match=r"unknown execution 'fused'; known: auto, plain"):
        GraphNetwork(small(), "fused")


# ---------------------------------------------------------------- memory and cost
def test_what_no_later_node_reads_is_let_go():
    """While a node computes, there is what it reads, what later ones read, and nothing else."""
    nodes = [
        Node("a", Convolution(6, 6, (1, 1)), (INPUT,)),
        Node("b", Convolution(6, 6, (1, 1)), ("a",)),
        Node("nobody", Convolution(6, 6, (1, 1)), ("b",)),
        Node("c", Convolution(6, 6, (1, 1)), ("b",)),
        Node("d", Convolution(6, 6, (1, 1)), ("c",)),
        Node("sum", Add(), ("d", "b")),
        Node("e", Convolution(6, 6, (1, 1)), ("sum",)),
        Node("pool", AdaptivePool(), ("e",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(6, 3), ("flat",)),
    ]
    network = GraphNetwork(GraphArchitecture(6, 9, 3, tuple(nodes))).double()
    made, alive = {}, {}

    def watch(name):
        def before(layer, inputs):
            alive[name] = {other for other, tensor in made.items() if tensor() is not None}

        def after(layer, inputs, output):
            made[name] = weakref.ref(output)

        network.layer(name).register_forward_pre_hook(before)
        network.layer(name).register_forward_hook(after)

    for name in ("a", "b", "nobody", "c", "d", "e", "fc"):
        watch(name)
    with torch.no_grad():
        network(X)
    assert alive == {
        **{"a": set(), "b": {"a"}, "nobody": {"b"}, "c": {"b"}, "d": {"b", "c"}},
        **{"e": set(), "fc": set()},
    }


def test_fvcore_counts_what_the_closed_form_says():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        nodes = [
            Node("a", Convolution(6, 12, (3, 2), (2, 1), (1, 1), (1, 2), 3, True), (INPUT,)),
            Node("b", Convolution(12, 12, (3, 3), padding=(1, 1), groups=12), ("a",)),
            Node("again", Convolution(12, 12, (3, 3), padding=(1, 1), groups=12), ("b",), shares="b"),
            Node("norm", BatchNorm(12), ("again",)),
            Node("pool", AdaptivePool("avg", (2, 2)), ("norm",)),
            Node("flat", Flatten(), ("pool",)),
            Node("hidden", Linear(48, 7, bias=False), ("flat",)),
            Node("fc", Linear(7, 3), ("hidden",)),
        ]
        network = GraphNetwork(GraphArchitecture(6, 9, 3, tuple(nodes))).eval()
        count = FlopCountAnalysis(network, torch.zeros(1, 6, 9, 9))
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        found = count.by_operator()
    assert found["conv"] + found["linear"] == network.architecture.macs
