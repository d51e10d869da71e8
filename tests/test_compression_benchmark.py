"""The benchmark of compression: its command on digits, and channel pruning less what Torch-Pruning does."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from igcsearch.compress.channels import channels_of
from igcsearch.compress.trace import trace
from igcsearch.entries import load as load_entry
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.spec.operations import BatchNorm, Convolution, Linear, Pad, Slice

Load = Callable[[str], ModuleType]

SOURCE = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
"""


@pytest.fixture
def resnet(load: Load) -> Any:
    """ResNet-20 as a graph, float64, with norms of random statistics."""
    torch.manual_seed(0)
    module = load("resnet20").resnet20().double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
    traced = trace(module, 32)
    return load("channels").Weighted(traced.architecture, traced.state_dict)


def outputs(network: Any) -> torch.Tensor:
    module = GraphNetwork(network.graph).double().eval()
    module.load_state_dict(network.state)
    with torch.no_grad():
        return module(torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def cut(network: Any, share: float, seed: int) -> Any:
    """The network with channels cut at random, as Torch-Pruning would cut its own choice: of each set that can change places."""
    stream, channels = random.Random(seed), channels_of(network.graph)
    gone = {a for block in channels.blocks for a in stream.sample(block.tolist(), int(share * len(block)))}
    state, nodes = dict(network.state), []
    for node in network.graph.nodes:
        kept = [place for place, atom in enumerate(channels.of[node.name].tolist()) if atom not in gone]
        read = [place for place, atom in enumerate(channels.of[node.reads[0]].tolist()) if atom not in gone]
        for key in ("weight", "bias", "running_mean", "running_var"):
            if (name := f"{node.name}.{key}") in state:
                state[name] = state[name][kept]
        sizes: dict[str, int] = {}
        match node.operation:
            case Convolution():
                sizes = {"in_channels": len(read), "out_channels": len(kept)}
            case Linear():
                sizes = {"in_features": len(read), "out_features": len(kept)}
            case BatchNorm():
                sizes = {"channels": len(kept)}
        if isinstance(node.operation, Convolution | Linear):
            state[f"{node.name}.weight"] = state[f"{node.name}.weight"][:, read]
        nodes.append(replace(node, operation=replace(node.operation, **sizes)))
    return network._replace(graph=network.graph.with_nodes(nodes), state=state)


# Rule: what stands for a shortcut while channels are pruned computes what the shortcut does, and goes again without a trace.
def test_shortcuts_are_opened_and_closed(load: Load, resnet: Any) -> None:
    channels, wanted = load("channels"), outputs(resnet)
    opened, shortcuts = channels.opened(resnet)
    assert not any(isinstance(node.operation, Pad | Slice) for node in opened.graph.nodes)
    torch.testing.assert_close(outputs(opened), wanted, rtol=1e-10, atol=1e-10)
    closed = channels.closed(opened, shortcuts)
    assert closed.graph.cost == resnet.graph.cost
    torch.testing.assert_close(outputs(closed), wanted, rtol=1e-10, atol=1e-10)


# Rule: so it is when any channels have been cut on both sides of the shortcuts.
@pytest.mark.parametrize("seed", range(4))
def test_shortcuts_of_pruned_channels(load: Load, resnet: Any, seed: int) -> None:
    channels = load("channels")
    opened, shortcuts = channels.opened(resnet)
    smaller = cut(opened, 0.3, seed)
    closed = channels.closed(smaller, shortcuts)
    assert closed.graph.macs < 0.6 * resnet.graph.macs
    assert {type(closed.graph.node(name).operation) for name in shortcuts} == {Pad}
    torch.testing.assert_close(outputs(closed), outputs(smaller), rtol=1e-10, atol=1e-10)


# Rule: with Torch-Pruning the network is inside the budget and near it.
@pytest.mark.parametrize("inner", [False, True])
def test_pruned_to_a_budget(load: Load, resnet: Any, inner: bool) -> None:
    pytest.importorskip("torch_pruning", exc_type=ImportError)
    state = {name: t.float() if t.is_floating_point() else t for name, t in resnet.state.items()}
    found, share = load("channels").pruned(resnet._replace(state=state), resnet.graph.macs // 2, inner=inner)
    assert 0.45 * resnet.graph.macs < found.graph.macs <= 0.5 * resnet.graph.macs
    assert 0 < share < 1


def test_without_torch_pruning_one_line_says_how(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UsageError, match="pip install --no-deps torch-pruning"):
        load("channels").torch_pruning()


# Rule: rows and fine-tuned networks are kept, and the same command trains none of them again.
def test_runs_are_kept_and_resumed(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = load("compression")
    (tmp_path / "nets.py").write_text(SOURCE)
    options = ["--source", f"{tmp_path}/nets.py:net", "--out", f"{tmp_path}/out", "--json", f"{tmp_path}/rows.json"]
    options += ["--shares", "70", "--epochs", "1", "--train-images", "100", "--seconds", "0.01", "--methods"]

    def one_after_another(work: Any, tasks: list[Any], workers: int) -> Any:
        yield from (("", work(*task)) for task in tasks)

    def rows(*more: str) -> list[dict[str, Any]]:
        monkeypatch.setattr("sys.argv", ["compression", *options, *more])
        benchmark.main()
        found: list[dict[str, Any]] = json.loads((tmp_path / "rows.json").read_text())["rows"]
        return found

    monkeypatch.setattr(benchmark.trainings, "run_all", one_after_another)
    dense, row = rows("permute")
    assert "| permute | 70 |" in capsys.readouterr().out
    assert dense["accuracy_before"] == row["accuracy_before"]
    assert 0.5 < row["macs_share"] <= 0.7
    assert row["macs"] == load_entry(tmp_path / "out" / row["entry"]).architecture.macs
    assert min(row["latency_ms"], row["latency_ms_before"]) > 0
    monkeypatch.setattr(benchmark, "fine_tune", lambda *given: pytest.fail("it trained again"))
    again = rows("permute", "--latency-only")[1]
    same = row.keys() - {"latency_ms", "latency_ms_before"}
    assert {key: row[key] for key in same} == {key: again[key] for key in same}
    with pytest.raises(SystemExit):
        rows("permte")
    assert "unknown method 'permte'" in capsys.readouterr().err
