"""The whole way to an N:M network: what comes out, what is kept of an interrupted one, and what it says to bad input."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from igcsearch.compress.source import Source
from igcsearch.compress.trace import trace
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.publish.cci import cci
from igcsearch.publish.tuning import FineTuning
from igcsearch.spec.problem import Budget
from igcsearch.training import DataSpec, load_data


@pytest.fixture(scope="module")
def digits():
    return load_data(DataSpec("digits", train_images=128))


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 1, 1, groups=2)]
    layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    traced = trace(nn.Sequential(*layers, nn.Linear(16, 10)), 8, 1)
    return Source("small", traced.architecture, traced.state_dict)


def run(source, images, folder, **more):
    return cci(source, images, tuning=FineTuning(0, {}, "cpu", 1), partial_folder=folder, **{"m": 4, **more})


def test_without_images(source, tmp_path):
    found = run(source, None, tmp_path, n=2)
    assert found.training is None
    assert found.made is found.pruned
    assert [row["sparsity"] for row in found.made.layers] == ["2:4", "2:4"]  # the first has one channel
    assert [row["groups"] for row in found.made.layers] == [2, 1]
    assert found.made.difference < 1e-5
    assert run(source, None, tmp_path, n=2, orders=False).made.kept < found.made.kept


@pytest.mark.parametrize("way", ["gradual", "one-shot", "straight-through"])
def test_trained_and_interrupted(source, digits, tmp_path, way):
    options = {"n": 1, "way": way, "epochs": 3, "selection": "taylor", "axis": "in"}
    whole = run(source, digits, tmp_path / "whole", **options)
    seen = []

    def stop(line):
        seen.append(line)
        if line.startswith("epoch 2/3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, digits, tmp_path / "cut", **options, say=stop)
    found = run(source, digits, tmp_path / "cut", **options)
    assert found.training.resumed_from == 2
    assert all(torch.equal(tensor, found.made.state[name]) for name, tensor in whole.made.state.items())
    network = GraphNetwork(found.made.architecture)
    network.load_state_dict(found.made.state)
    assert found.made.architecture == found.pruned.architecture
    assert found.made.architecture.nonzero_macs < source.graph.macs / 2
    assert not torch.equal(found.made.state["3.values"], found.pruned.state["3.values"])


def test_n_from_a_budget(source, digits, tmp_path):
    limit = source.graph.macs // 2
    found = run(source, digits, tmp_path, budget=Budget(macs=limit), importance="sensitivity")
    assert found.made.configuration == "exact"
    assert 0.9 * limit < found.made.nonzero_macs <= limit


def test_bad_input(source, digits, tmp_path):
    with pytest.raises(UsageError, match="at most M"):
        run(source, None, tmp_path, n=5)
    with pytest.raises(UsageError, match="at least 1"):
        run(source, None, tmp_path, n=0)
    with pytest.raises(UsageError, match="need images"):
        run(source, None, tmp_path, n=2, selection="taylor")
    empty = replace(digits, train=replace(digits.train, images=digits.train.images[:0], labels=digits.train.labels[:0]))
    with pytest.raises(UsageError, match="no training images"):
        run(source, empty, tmp_path, n=2, selection="taylor")
    with pytest.raises(UsageError, match="unknown way"):
        run(source, digits, tmp_path, n=2, way="slow", epochs=1)
