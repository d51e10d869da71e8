"""Networks for the tests of compression: torchvision's with random statistics, and random small graphs of every operation."""

import random

import torch
import torchvision
from torch import nn

from igcsearch.nn.graph import GraphNetwork
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
    Multiply,
    Pad,
    Slice,
    Window,
)

QUICK = [
    "resnet18",
    "mobilenet_v2",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "efficientnet_b0",
    "densenet121",
    "resnet50",
]
LONG = ["vgg11_bn"]  # 20 s for its 129 million parameters


def randomised(module, seed=0):
    """Batch-norm statistics, scales and shifts at random, so that no two channels are alike; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(layer.bias, 0, 0.2, generator=generator)
    return module


def named(name, num_classes=10):
    """torchvision's network of that name, random."""
    torch.manual_seed(0)
    return randomised(getattr(torchvision.models, name)(weights=None, num_classes=num_classes))


def outputs(graph, state, x, dtype=torch.float64):
    """Logits of a graph with those weights, in eval mode."""
    network = GraphNetwork(graph).to(dtype).eval()
    network.load_state_dict({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()})
    with torch.no_grad():
        return network(x.to(dtype))


def difference(found, expected):
    """The largest, as a share of the largest output."""
    return float((found - expected).abs().max() / expected.abs().max())


def images(graph, count=2, seed=1):
    size = graph.image_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, graph.in_channels, size, size, generator=generator, dtype=torch.float64)


def weights(graph, seed=0):
    """A random state dict."""
    torch.manual_seed(seed)
    return randomised(GraphNetwork(graph), seed).state_dict()


class _Drawn:
    """A random graph under way."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.nodes, self.shapes = [], {}

    def add(self, operation, *reads, shares=None):
        name = f"{operation.op}{len(self.nodes)}"
        self.nodes.append(Node(name, operation, reads, shares))
        self.shapes[name] = operation.shape(*(self.shapes[read] for read in reads))
        return name

    def pick(self, shape=None):
        """A map among the last ones, of that shape."""
        fits = [name for name, s in self.shapes.items() if len(s) == 3 and (shape is None or s == shape)]
        return self.rng.choice(fits[-6:])

    def convolution(self, read, out=None, groups=None, stride=1, bias=None):
        rng, (channels, height, _) = self.rng, self.shapes[read]
        out = out or rng.choice([4, 6, 8, 12])
        if groups is None:
            common = [g for g in (1, 2, 3, 4) if channels % g == 0 == out % g]
            groups = rng.choice([1, 1, *common])
        kernel = rng.choice([1, 3])
        mode = rng.choice(["zeros", "reflect", "replicate", "circular"]) if kernel == 3 and height > 2 else "zeros"
        bias = rng.random() < 0.5 if bias is None else bias
        pad = (kernel // 2, kernel // 2)
        return self.add(
            Convolution(channels, out, (kernel, kernel), (stride, stride), pad, (1, 1), groups, bias, mode), read
        )


KINDS = [
    *("conv", "conv", "add", "concat", "slice", "shuffle", "gather", "pad", "depthwise", "norm", "gate", "pool"),
    *("again", "activation", "multiply", "shortcut", "ghost", "ghost"),
]


def random_graph(seed, steps=8, size=8):
    """Residuals, concatenations, slices, shuffles, pads, gates, channel-wise, grouped and shared convolutions in any order."""
    drawn = _Drawn(seed)
    rng = drawn.rng
    drawn.shapes[INPUT] = (3, size, size)
    drawn.convolution(INPUT, out=rng.choice([4, 6, 8, 12]), groups=1)
    for _ in range(steps):
        read = drawn.pick()
        channels, height, _ = drawn.shapes[read]
        kind = rng.choice(KINDS)
        if kind == "conv":
            drawn.convolution(read, stride=rng.choice([1, 1, 2]) if height > 2 else 1)
        elif kind in ("add", "multiply"):
            operation = Add() if kind == "add" else Multiply()
            drawn.add(operation, read, *(drawn.pick(drawn.shapes[read]) for _ in range(rng.choice([1, 1, 2]))))
        elif kind == "concat":
            others = [n for n, s in drawn.shapes.items() if s[1:] == drawn.shapes[read][1:]]
            if channels <= 24:
                drawn.add(Concat(), read, *(rng.choice(others[-5:]) for _ in range(rng.choice([1, 1, 2]))))
        elif kind == "slice" and channels > 2:
            start = rng.randrange(channels - 1)
            drawn.add(Slice(start, rng.randrange(start + 1, channels + 1)), read)
        elif kind == "shuffle":
            drawn.add(Gather(groups=rng.choice([g for g in range(1, channels + 1) if channels % g == 0])), read)
        elif kind == "gather":
            drawn.add(Gather(order=tuple(rng.sample(range(channels), channels))), read)
        elif kind == "pad" and channels <= 16:
            drawn.add(Pad((rng.randrange(3), rng.randrange(4)), (0, 1), (1, 0), rng.choice([0.0, 0.5])), read)
        elif kind == "depthwise":
            drawn.convolution(read, out=channels * rng.choice([1, 1, 1, 2]), groups=channels)
        elif kind == "ghost" and channels <= 12:
            both = drawn.add(Concat(), read, drawn.convolution(read, out=channels, groups=channels))
            drawn.add(Gather(order=tuple(rng.sample(range(2 * channels), 2 * channels))), both)
        elif kind == "norm":
            drawn.add(BatchNorm(channels, affine=rng.random() < 0.7), read)
        elif kind == "activation":
            drawn.add(Activation(rng.choice(["relu", "sigmoid", "softmax", "leaky_relu"])), read)
        elif kind == "gate":
            gate = drawn.add(AdaptivePool(), read)
            inner = drawn.add(Activation("relu"), drawn.convolution(gate, groups=1))
            drawn.add(
                Multiply(), read, drawn.add(Activation("sigmoid"), drawn.convolution(inner, out=channels, groups=1))
            )
        elif kind == "pool" and height > 2:
            drawn.add(Window(rng.choice(["max", "avg"]), (2, 2), (2, 2)), read)
        elif kind == "again":
            same = drawn.convolution(read, out=channels, groups=1)
            drawn.add(drawn.nodes[-1].operation, same, shares=same)
        elif kind == "shortcut" and height > 2 and channels <= 12:
            half = drawn.add(Slice(steps=(2, 2)), read)
            padded = drawn.add(Pad((channels // 2, channels - channels // 2)), half)
            drawn.add(Add(), padded, drawn.convolution(read, out=2 * channels, stride=2))
    flat = drawn.add(Flatten(), drawn.add(AdaptivePool("avg", (2, 2)), drawn.nodes[-1].name))
    hidden = drawn.add(Activation("relu"), drawn.add(Linear(drawn.shapes[flat][0], 10), flat))
    drawn.add(Linear(10, 3), hidden)
    return GraphArchitecture(3, size, 3, tuple(drawn.nodes))
