"""Small chains of convolutions for the tests of N:M sparsity."""

import itertools

from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, BatchNorm, Convolution, Flatten, Linear


def chain(widths, size=8, classes=3, groups=1):
    """conv0, norm0, relu0, conv1 ... of 3x3, the last ones with groups; then pool, flat, fc."""
    nodes, before = [], INPUT
    for number, (read, made) in enumerate(itertools.pairwise(widths)):
        convolution = Convolution(read, made, (3, 3), padding=(1, 1), groups=groups if number else 1, bias=number == 1)
        nodes.append(Node(f"conv{number}", convolution, (before,)))
        nodes.append(Node(f"norm{number}", BatchNorm(made), (f"conv{number}",)))
        before = f"relu{number}"
        nodes.append(Node(before, Activation("relu"), (f"norm{number}",)))
    nodes += [Node("pool", AdaptivePool(), (before,)), Node("flat", Flatten(), ("pool",))]
    nodes.append(Node("fc", Linear(widths[-1], classes, True), ("flat",)))
    return GraphArchitecture(widths[0], size, classes, tuple(nodes))
