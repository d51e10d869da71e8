"""Graphs as data: JSON, hash, key, shapes and cost against torch's own, errors with their place, other sizes."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from igcsearch.errors import UsageError
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node, parse_graph
from igcsearch.spec.operations import (
    GRAPH_ACTIVATIONS,
    OPERATIONS,
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
    Unflatten,
    Window,
)


def chain(*operations, image_size=8, in_channels=3, num_classes=4, **more):
    """Operations one behind the other, named n0, n1, ..."""
    names = [INPUT, *(f"n{i}" for i in range(len(operations)))]
    nodes = [Node(names[i + 1], operation, (names[i],)) for i, operation in enumerate(operations)]
    return GraphArchitecture(in_channels, image_size, num_classes, tuple(nodes), **more)


def head(channels, size):
    return Flatten(), Linear(channels * size * size, 4)


def every():
    """Uses every operation and every field."""
    nodes = [
        Node("stem.conv", Convolution(3, 8, (3, 1), (2, 1), (1, 0), (1, 2), 1, True, "reflect"), (INPUT,)),
        Node("stem.norm", BatchNorm(8, 1e-3, None, False), ("stem.conv",)),
        Node("act", Activation("leaky_relu", slope=0.2), ("stem.norm",)),
        Node("gelu", Activation("gelu", tanh=True), ("act",)),
        Node("half", Slice(2, 6), ("gelu",)),
        Node("rest", Slice(4), ("gelu",)),
        Node("sum", Add(), ("half", "rest", "half")),
        Node("pad", Pad((1, 3), (0, 1), (2, 0), -1.5), ("sum",)),
        Node("pool", Window("max", (3, 2), (1, 2), (1, 0), (2, 1), True), ("pad",)),
        Node("mean", Window("avg", (2, 2), (1, 1), (1, 1), count_include_pad=False), ("pool",)),
        Node("twice", Convolution(8, 8, (1, 1)), ("mean",)),
        Node("again", Convolution(8, 8, (1, 1)), ("twice",), shares="twice"),
        Node("gate", AdaptivePool(), ("again",)),
        Node("scaled", Multiply(), ("again", "gate")),
        Node("both", Concat(), ("scaled", "again")),
        Node("mixed", Gather(groups=4), ("both",)),
        Node("turned", Gather(order=tuple(reversed(range(16)))), ("mixed",)),
        Node("small", AdaptivePool("max", (2, 1)), ("turned",)),
        Node("flat", Flatten(), ("small",)),
        Node("drop", Dropout(0.25, "image"), ("flat",)),
        Node("fc", Linear(32, 5, bias=False), ("drop",)),
    ]
    return GraphArchitecture(3, 12, 5, tuple(nodes), family="test")


def again(graph):
    data = json.loads(graph.to_json())
    del data["schema"]
    assert data.pop("kind") == "graph"
    return parse_graph(data)


def given_data(**changes):
    """JSON data of a small graph, changed."""
    data = chain(Convolution(3, 4, (3, 3)), *head(4, 6)).to_dict() | changes
    del data["schema"], data["kind"]
    return json.loads(json.dumps(data))


# ---------------------------------------------------------------- JSON, hash, key
def test_json_gives_the_same_graph_back():
    graph = every()
    assert again(graph) == graph
    assert again(graph).hash == graph.hash
    assert {node.operation.op for node in graph.nodes} | {"unflatten"} == set(OPERATIONS)


def test_unflatten_makes_a_map_of_features():
    graph = chain(AdaptivePool(), Flatten(), Linear(3, 6), Unflatten(), Convolution(6, 4, (1, 1)), Flatten())
    assert graph.shapes["n3"] == (6, 1, 1)
    assert again(graph) == graph


def test_hashes_are_fixed_for_good():
    assert every().hash == "4d40cc32"
    assert every().key == "fa3306d068b32373"


def test_defaults_are_not_written():
    plain = chain(Convolution(3, 4, (3, 3)), BatchNorm(4), *head(4, 6)).to_dict()
    assert plain["nodes"][0] == {
        **{"name": "n0", "op": "convolution", "in_channels": 3, "out_channels": 4},
        "kernel_size": [3, 3],
    }
    assert plain["nodes"][1] == {"name": "n1", "op": "norm", "channels": 4}
    assert "family" not in plain
    spelled = chain(Convolution(3, 4, (3, 3), (1, 1), (0, 0), (1, 1), 1, False, "zeros"), BatchNorm(4), *head(4, 6))
    assert spelled.to_dict() == plain
    data = plain["nodes"][0] | {"stride": [1, 1], "groups": 1, "reads": ["input"]}
    assert parse_graph(given_data(nodes=[data, *plain["nodes"][1:]])).hash == spelled.hash


def test_whole_numbers_stand_for_numbers():
    """A slope of 1 and of 1.0 are one network, with one hash, before and after JSON."""
    whole = chain(Activation("leaky_relu", slope=1), Pad(value=2), Dropout(0), *head(3, 8))
    exact = chain(Activation("leaky_relu", slope=1.0), Pad(value=2.0), Dropout(0.0), *head(3, 8))
    assert whole.hash == exact.hash == again(whole).hash


def test_the_key_sees_no_names_and_the_hash_does():
    graph = every()
    names = {node.name: f"renamed.{i}" for i, node in enumerate(graph.nodes)} | {INPUT: INPUT}
    renamed = graph.with_nodes(
        [
            Node(names[n.name], n.operation, tuple(names[r] for r in n.reads), n.shares and names[n.shares])
            for n in graph.nodes
        ]
    )
    assert renamed.key == graph.key
    assert renamed.hash != graph.hash
    assert replace(graph, family="other").key == graph.key


@pytest.mark.parametrize(
    "change",
    [
        {"fc": Linear(32, 5)},
        {"drop": Dropout(0.3, "image")},
        {"mixed": Gather(groups=2)},
        {"act": Activation("relu")},
        {"stem.norm": BatchNorm(8, 1e-3, None)},
    ],
)
def test_the_key_sees_every_field(change):
    graph = every()
    nodes = [replace(node, operation=change.get(node.name, node.operation)) for node in graph.nodes]
    assert graph.with_nodes(nodes).key != graph.key


def test_the_key_sees_what_is_read_and_shared():
    graph = every()
    nodes = {node.name: node for node in graph.nodes}
    unshared = nodes | {"again": replace(nodes["again"], shares=None)}
    other = nodes | {"sum": replace(nodes["sum"], reads=("half", "rest", "rest"))}
    assert len({graph.key, *(graph.with_nodes(list(n.values())).key for n in (unshared, other))}) == 3


# ---------------------------------------------------------------- shapes and cost against torch
def _module(operation):
    """torch's own, written apart from nn/graph.py."""
    match operation:
        case Convolution():
            o = operation
            args = (o.in_channels, o.out_channels, o.kernel_size, o.stride, o.padding, o.dilation, o.groups, o.bias)
            return nn.Conv2d(*args, padding_mode=o.padding_mode)
        case Window(kind="max"):
            o = operation
            return nn.MaxPool2d(o.kernel_size, o.stride, o.padding, o.dilation, ceil_mode=o.ceil_mode)
        case Window():
            o = operation
            return nn.AvgPool2d(o.kernel_size, o.stride, o.padding, o.ceil_mode, o.count_include_pad)
        case AdaptivePool():
            return (nn.AdaptiveMaxPool2d if operation.kind == "max" else nn.AdaptiveAvgPool2d)(operation.size)
    raise AssertionError(operation)


def _torch_shape(module, shape):
    """What torch makes of one image, None where it refuses."""
    try:
        with torch.no_grad():
            return tuple(module(torch.zeros(1, *shape)).shape[1:])
    except RuntimeError:
        return None


def _our_shape(operation, shape):
    try:
        return operation.shape(shape)
    except UsageError:
        return None


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@given(
    pairs(1, 4), pairs(1, 3), pairs(0, 3), pairs(1, 3), st.sampled_from([1, 2, 3]), st.booleans(), pairs(1, 9),
    st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)  # fmt: skip
def test_convolutions_make_what_torch_makes(kernel, stride, padding, dilation, groups, bias, size, mode):
    operation = Convolution(6, 12, kernel, stride, padding, dilation, groups, bias, mode)
    module, shape = _module(operation), (6, *size)
    made = _torch_shape(module, shape)
    assert _our_shape(operation, shape) == made
    assert operation.params == sum(p.numel() for p in module.parameters())
    if made is not None:
        assert operation.macs(made) == operation.weights * math.prod(made[1:])


@given(
    st.sampled_from(["max", "avg"]), pairs(1, 4), pairs(1, 4), st.data(), pairs(1, 3), st.booleans(), pairs(1, 11)
)  # fmt: skip
def test_pools_make_what_torch_makes(kind, kernel, stride, data, dilation, ceil, size):
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    operation = Window(kind, kernel, stride, padding, dilation if kind == "max" else (1, 1), ceil)
    assert _our_shape(operation, (2, *size)) == _torch_shape(_module(operation), (2, *size))


@given(st.sampled_from(["max", "avg"]), pairs(1, 5), pairs(1, 9))
def test_adaptive_pools_make_what_torch_makes(kind, wanted, size):
    operation = AdaptivePool(kind, wanted)
    assert _our_shape(operation, (2, *size)) == _torch_shape(_module(operation), (2, *size))


@given(st.integers(0, 4), st.none() | st.integers(1, 7), pairs(1, 4), pairs(1, 9))
def test_slices_make_what_torch_makes(start, stop, steps, size):
    x = torch.zeros(1, 6, *size)[:, start:stop, :: steps[0], :: steps[1]]
    inside = (stop or 6) <= 6 and start < (stop or 6)
    assert _our_shape(Slice(start, stop, steps), (6, *size)) == (tuple(x.shape[1:]) if inside else None)


@given(pairs(0, 3), pairs(0, 3), pairs(0, 3))
def test_pads_make_what_torch_makes(channels, rows, columns):
    made = F.pad(torch.zeros(1, 2, 4, 5), (*columns, *rows, *channels))
    assert Pad(channels, rows, columns).shape((2, 4, 5)) == tuple(made.shape[1:])


@given(st.integers(1, 4), st.integers(1, 4))
def test_interleaves_are_channel_shuffles(groups, width):
    order = Gather(groups=groups).permutation(groups * width)
    x = torch.arange(groups * width, dtype=torch.float32).reshape(1, -1, 1, 1)
    assert F.channel_shuffle(x, groups).flatten().int().tolist() == order


def test_cost_counts_shared_parameters_once_and_their_work_twice():
    graph = every()
    fields = {node.name: node.operation.params for node in graph.nodes}
    assert graph.params == sum(fields.values()) - fields["again"]
    shapes = graph.shapes
    convolutions = [("stem.conv", 3 * 8 * 3), ("twice", 64), ("again", 64)]
    assert graph.macs == sum(weights * math.prod(shapes[name][1:]) for name, weights in convolutions) + 32 * 5


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ((Convolution(4, 4, (1, 1)), *head(4, 8)), r"node 'n0': 4 channels are read, 3x8x8 given"),
        ((Convolution(3, 4, (9, 9)), *head(4, 8)), r"node 'n0': a window is larger than the padded map"),
        ((BatchNorm(3), BatchNorm(5), *head(3, 8)), r"node 'n1': 5 channels are read, 3x8x8 given"),
        ((Flatten(), Linear(10, 4)), r"node 'n1': a linear layer of 10 features is given 192"),
        ((Flatten(), Convolution(3, 4, (1, 1)), *head(3, 8)), r"node 'n1': a map of .* is needed, given 192"),
        ((Flatten(), Pad(rows=(1, 1)), Linear(192, 4)), r"node 'n1': a map of .* is needed, given 192"),
        ((Unflatten(), *head(3, 8)), r"node 'n0': unflatten needs features, given 3x8x8"),
        ((Flatten(), Slice(steps=(2, 2)), Linear(192, 4)), r"node 'n1': a map of .* is needed, given 192"),
        ((Slice(1, 9), *head(3, 8)), r"node 'n0': slice 1 to 9 is not within 3 channels"),
        ((Gather(groups=2), *head(3, 8)), r"node 'n0': a shuffle of 2 groups is given 3 channels"),
        ((Gather(order=(1, 0)), *head(3, 8)), r"node 'n0': 2 channels are read"),
        ((Convolution(3, 4, (1, 1)),), r"node 'n0' makes 4x8x8; logits of 4 classes are expected"),
        (
            (Convolution(3, 4, (3, 3), padding=(8, 8), padding_mode="reflect"), *head(4, 22)),
            r"node 'n0': reflect padding of 8 needs a map of more than 8 pixels",
        ),
    ],
)
def test_shapes_that_do_not_meet_name_their_node(operations, message):
    with pytest.raises(UsageError, match=message):
        chain(*operations)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], r"at least one node"),
        ([Node("a", Flatten(), ("b",)), Node("b", Linear(192, 4), ("a",))], r"'a' reads 'b', which is no node before"),
        ([Node("a", Flatten(), ("a",))], r"'a' reads 'a', which is no node before"),
        ([Node("a", Flatten(), (INPUT,)), Node("a", Linear(192, 4), ("a",))], r"'a' is empty, 'input' or there twice"),
        ([Node("input", Flatten(), (INPUT,))], r"'input' is empty"),
        ([Node("a..b", Flatten(), (INPUT,))], r"'a..b' is empty"),
        ([Node("a", Add(), (INPUT,))], r"'a': add cannot read 1 nodes"),
        ([Node("a", Flatten(), (INPUT, INPUT))], r"'a': flatten cannot read 2 nodes"),
        ([Node("a", Flatten(), ())], r"'a': flatten cannot read 0 nodes"),
        (
            [Node("s", Slice(steps=(2, 2)), (INPUT,)), Node("a", Add(), (INPUT, "s"))],
            r"'a': add is given shapes that do not fit: 3x8x8, 3x4x4",
        ),
        (
            [Node("s", Slice(steps=(2, 2)), (INPUT,)), Node("a", Concat(), (INPUT, "s"))],
            r"'a': concat is given maps of several sizes",
        ),
        (
            [Node("f", Flatten(), (INPUT,)), Node("a", Linear(192, 4), ("f",), shares="z")],
            r"'a' shares 'z', which is no node before it of the same operation",
        ),
        (
            [Node("f", Flatten(), (INPUT,)), Node("a", Linear(192, 4), ("f",), shares="f")],
            r"'a' shares 'f', which is no node before it of the same operation",
        ),
    ],
)
def test_nodes_that_do_not_meet_are_refused(nodes, message):
    with pytest.raises(UsageError, match=message):
        GraphArchitecture(3, 8, 4, tuple(nodes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Convolution(6, 8, (1, 1), groups=4), r"4 groups do not divide 6 and 8 channels"),
        (lambda: Convolution(6, 6, (1, 1), groups=0), r"0 groups do not divide"),
        (lambda: Convolution(6, 6, (0, 1)), r"at least 1"),
        (lambda: Convolution(6, 6, (1, 1), stride=(0, 1)), r"at least 1"),
        (lambda: Convolution(0, 6, (1, 1)), r"at least 1"),
        (lambda: Convolution(6, 6, (1, 1), padding=(-1, 0)), r"negative"),
        (lambda: Convolution(6, 6, (1, 1), padding_mode="zero"), r"padding mode 'zero' .*did you mean 'zeros'"),
        (lambda: Activation("rel"), r"activation 'rel' .*did you mean 'relu'"),
        (lambda: Window("mean", (2, 2), (2, 2)), r"pooling 'mean' is none of max, avg"),
        (lambda: Window("max", (2, 2), (0, 2)), r"at least 1"),
        (lambda: Window("max", (0, 2), (1, 2)), r"at least 1"),
        (lambda: Window("max", (2, 2), (1, 2), (2, 0)), r"padding \(2, 0\) .* half the window \(2, 2\)"),
        (lambda: Window("max", (2, 2), (1, 2), (-1, 0)), r"padding \(-1, 0\)"),
        (lambda: Window("avg", (2, 2), (1, 2), dilation=(2, 2)), r"average .* dilation"),
        (lambda: AdaptivePool("avg", (0, 1)), r"at least 1"),
        (lambda: Linear(0, 4), r"at least 1"),
        (lambda: Slice(steps=(0, 1)), r"at least 1"),
        (lambda: Pad(rows=(-1, 0)), r"not negative"),
        (lambda: Gather(), r"either an order or groups"),
        (lambda: Gather((0, 1), 2), r"either an order or groups"),
        (lambda: Gather((0, 2)), r"no permutation"),
        (lambda: Dropout(1.0), r"\[0, 1\)"),
        (lambda: Dropout(0.1, "row"), r"dropout 'row' is none of"),
    ],
)
def test_operations_that_cannot_be_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes", None, r"architecture\.nodes: expected a JSON list"),
        ("nodes", {}, r"architecture\.nodes: expected a JSON list, found dict"),
        ("nodes.1", 7, r"architecture\.nodes\[1\]: expected a JSON object, found int"),
        ("nodes.0.op", "convolve", r"nodes\[0\]\.op: unknown operation 'convolve' \(did you mean 'convolution'"),
        ("nodes.0.op", ["norm"], r"nodes\[0\]\.op: unknown operation \['norm'\]"),
        ("nodes.0.op", None, r"nodes\[0\]\.op: unknown operation None"),
        ("nodes.0.name", None, r"nodes\[0\]: a name is missing"),
        ("nodes.0.shares", 3, r"nodes\[0\]: "),
        ("nodes.0.strides", [1, 1], r"nodes\[0\]: unknown field 'strides' \(did you mean 'stride'"),
        ("nodes.0.stride", 2, r"nodes\[0\]\.stride: expected a list of 2 whole numbers, found 2"),
        ("nodes.0.stride", [1, 1, 1], r"nodes\[0\]\.stride: expected a list of 2 whole numbers"),
        ("nodes.0.stride", [1.0, 1], r"nodes\[0\]\.stride: expected a list of 2 whole numbers"),
        ("nodes.0.stride", [True, 1], r"nodes\[0\]\.stride: expected a list of 2 whole numbers"),
        ("nodes.0.groups", True, r"nodes\[0\]\.groups: expected int, found True"),
        ("nodes.0.bias", 1, r"nodes\[0\]\.bias: expected bool, found 1"),
        ("nodes.0.padding_mode", None, r"nodes\[0\]\.padding_mode: expected str, found None"),
        ("nodes.0.groups", 2, r"nodes\[0\]: 2 groups do not divide 3 and 4 channels"),
        ("nodes.0.reads", "input", r"nodes\[0\]\.reads: a list of names is needed"),
        ("nodes.0.reads", [1], r"nodes\[0\]\.reads: a list of names is needed"),
        ("image_size", "8", r"architecture\.image_size: expected int, found '8'"),
        ("image_size", 2, r"image size 2 is too small"),
        ("num_classes", 1, r"1 classes"),
        ("classes", 4, r"architecture: unknown field 'classes'"),
        ("family", 4, r"architecture\.family: expected str"),
    ],
)
def test_ill_formed_documents_name_the_place(path, value, message):
    data = given_data()
    *folders, last = path.split(".")
    place = data
    for name in folders:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    with pytest.raises(UsageError, match=message):
        parse_graph(data)


@pytest.mark.parametrize("name", ["in_channels", "image_size", "num_classes"])
def test_missing_sizes_are_named(name):
    data = given_data()
    del data[name]
    with pytest.raises(UsageError, match=rf"architecture: field '{name}' is missing"):
        parse_graph(data)


def test_missing_fields_are_named():
    data = given_data()
    del data["nodes"][0]["kernel_size"]
    with pytest.raises(UsageError, match=r"nodes\[0\]: field 'kernel_size' is missing"):
        parse_graph(data)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_numbers_are_finite(value):
    data = given_data()
    data["nodes"].insert(0, {"name": "p", "op": "pad", "value": value})
    with pytest.raises(UsageError, match=r"nodes\[0\]\.value: .*finite"):
        parse_graph(data)


def test_random_damage_is_a_usage_error_or_a_graph():
    """Whatever stands in place of any value: either a graph comes of it, which survives JSON, or an error for users."""
    values = [None, True, -1, 0, 3, 0.5, "", "input", "fc", [], [1], [1, 1], ["input"], {}, 10**30, "relu"]
    rng = random.Random(0)
    for _ in range(1500):
        data = json.loads(every().to_json())
        del data["schema"], data["kind"]
        node = rng.choice(data["nodes"])
        place = rng.choice([data, node, node, node])
        place[rng.choice([*place, "groups", "shares", "reads", "order"])] = rng.choice(values)
        try:
            graph = parse_graph(data)
        except UsageError:
            continue
        assert again(graph) == graph
        assert graph.macs >= 0


# ---------------------------------------------------------------- other sizes
def test_other_classes_channels_and_images():
    graph = chain(Convolution(3, 4, (3, 3)), AdaptivePool(), Flatten(), Linear(4, 4))
    other = graph.with_(num_classes=9, in_channels=1, image_size=16)
    assert (other.num_classes, other.in_channels, other.image_size) == (9, 1, 16)
    assert other.shapes[INPUT] == (1, 16, 16)
    assert other.shapes["n3"] == (9,)
    assert graph.with_() == graph
    assert graph.with_(num_classes=4, in_channels=3, image_size=8) == graph
    assert (graph.problem().num_classes, graph.problem().image_size) == (4, 8)


@pytest.mark.parametrize(
    ("graph", "change", "message"),
    [
        (chain(AdaptivePool(), Flatten(), Linear(3, 4), Activation("relu")), {"num_classes": 5}, r"linear layer"),
        (chain(BatchNorm(3), *head(3, 8)), {"in_channels": 1}, r"'n0', which reads the image, is no dense convolution"),
        (chain(Convolution(3, 3, (1, 1), groups=3), *head(3, 8)), {"in_channels": 1}, r"no dense convolution"),
        (chain(*head(3, 8)), {"image_size": 16}, r"cannot take images of 16 pixels a side \(8 it can\): node 'n1'"),
        (chain(*head(3, 8)), {"image_size": 0}, r"image size 0 is too small"),
        (chain(*head(3, 8)), {"num_classes": 0}, r"at least"),
        (chain(Convolution(3, 4, (1, 1)), *head(4, 8)), {"in_channels": 0}, r"at least 1"),
    ],
)
def test_sizes_that_a_network_cannot_take(graph, change, message):
    with pytest.raises(UsageError, match=message):
        graph.with_(**change)


def test_other_channels_where_the_first_layer_is_shared():
    nodes = [
        Node("a", Convolution(3, 3, (1, 1)), (INPUT,)),
        Node("b", Convolution(3, 3, (1, 1)), ("a",), shares="a"),
        Node("flat", Flatten(), ("b",)),
        Node("fc", Linear(192, 4), ("flat",)),
    ]
    with pytest.raises(UsageError, match=r"shares 'a'"):
        GraphArchitecture(3, 8, 4, tuple(nodes)).with_(in_channels=1)


def test_nodes_by_name():
    graph = every()
    assert graph.node("fc").operation == Linear(32, 5, bias=False)
    assert graph.classifier == graph.node("fc")
    assert graph.readers["half"] == ("sum", "sum")
    assert [node.name for node, _ in graph.convolutions()] == ["stem.conv", "twice", "again"]
    with pytest.raises(UsageError, match=r"no node 'fd' \(did you mean 'fc'"):
        graph.node("fd")


def test_activations_are_known_to_torch():
    assert len(set(GRAPH_ACTIVATIONS)) == len(GRAPH_ACTIVATIONS)
