"""The images that compression measures on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.publish.tuning import calibration, recalibrated
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import AdaptivePool, BatchNorm, Convolution, Flatten
from igcsearch.training import DataSpec, load_data
from igcsearch.training.datasets.images import Split


def chosen(split: Split, rows: torch.Tensor) -> Split:
    assert isinstance(split.images, torch.Tensor)
    indices = torch.arange(len(rows))  # as a data set that lies in this order has them
    return replace(split, images=split.images[rows], labels=split.labels[rows], indices=indices)


def test_calibration_images_are_of_every_class() -> None:
    """Data that lies sorted by class gives no set of one class."""
    images = load_data(DataSpec("digits"))
    images = replace(images, train=chosen(images.train, images.train.labels.argsort(stable=True)))
    found = calibration(images, 256)
    labels = torch.cat([labels for _, labels in found])
    assert 256 <= len(labels) < 256 + 128
    assert len(labels.unique()) == 10
    assert float(torch.cat([x for x, _ in found]).mean().abs()) < 0.2
    assert len(torch.cat([labels for _, labels in calibration(images, 10**6)])) == len(images.train)


def test_no_training_images_are_refused() -> None:
    images = load_data(DataSpec("digits"))
    empty = replace(images, train=chosen(images.train, torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(UsageError, match=r"data digits has no training images to measure on"):
        calibration(empty)


def test_recalibrated_statistics_are_those_of_the_images() -> None:
    convolution = Convolution(1, 4, (3, 3), padding=(1, 1))
    nodes = [
        Node("it", convolution, (INPUT,)),
        Node("norm", BatchNorm(4), ("it",)),
        Node("pool", AdaptivePool(), ("norm",)),
    ]
    graph = GraphArchitecture(1, 8, 4, (*nodes, Node("flat", Flatten(), ("pool",))))
    state = GraphNetwork(graph).state_dict()
    state = {name: tensor + 5 if "running" in name else tensor.clone() for name, tensor in state.items()}
    images = [torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    made = recalibrated(graph, state, [(x, torch.zeros(6)) for x in images])
    maps = [torch.nn.functional.conv2d(x, state["it.weight"], padding=1) for x in images]
    means = torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in maps]).mean(0)
    torch.testing.assert_close(made["norm.running_mean"], means)
    torch.testing.assert_close(made["norm.running_var"], variances)
    assert all(torch.equal(made[name], state[name]) for name in ("it.weight", "norm.weight", "norm.bias"))
