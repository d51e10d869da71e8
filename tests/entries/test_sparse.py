"""Entries of sparse networks: values and codes on disk, nothing dense; what is said of their cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import igcsearch
from igcsearch.entries import Entry, write_entry
from igcsearch.entries.drawing import draw
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.spec import Architecture, Block, Factor, Stage, StagedArchitecture
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import AdaptivePool, BatchNorm, Convolution, Flatten, Linear

STAGED = StagedArchitecture(
    *(3, 8, 5),
    Block((Factor(3, 16, 3, norm=True, activation="relu"),)),
    (Stage((Block((Factor(16, 16, 3, norm=True, sparsity=(2, 4)),), shortcut=()),)),),
)
GRAPH = GraphArchitecture(
    *(3, 8, 5),
    (
        Node("conv", Convolution(3, 16, (3, 3), sparsity=(1, 8), sparse_axis="out"), (INPUT,)),
        Node("norm", BatchNorm(16), ("conv",)),
        Node("pool", AdaptivePool(), ("norm",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(16, 5), ("flat",)),
    ),
)


@pytest.fixture(params=[STAGED, GRAPH], ids=["staged", "graph"])
def entry(request: pytest.FixtureRequest, tmp_path: Path) -> Entry:
    architecture: Architecture = request.param
    return write_entry(tmp_path / "sparse", architecture, build(architecture, seed=1).state_dict(), {})


def test_entries_hold_values_and_codes(entry: Entry) -> None:
    tensors = load_file(entry.weights)
    kept = sum(tensor.numel() for key, tensor in tensors.items() if key.endswith("values"))
    assert kept == (16 * 16 * 9 // 2 if entry.architecture == STAGED else 3 * 16 * 9 // 8)
    assert any(key.endswith("codes") for key in tensors)
    dense = 16 * 16 * 9 if entry.architecture == STAGED else 3 * 16 * 9
    assert dense not in [tensor.numel() for tensor in tensors.values()]
    network, fresh = igcsearch.load(entry.path), build(entry.architecture, seed=1).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x), fresh(x))


def test_what_an_entry_says_of_its_cost(entry: Entry) -> None:
    architecture = entry.architecture
    assert entry.metrics["nonzero_macs"] == architecture.nonzero_macs < entry.metrics["macs"]
    assert f"{architecture.nonzero_macs:,}" in (entry.path / "README.md").read_text()
    assert ("2:4" if architecture == STAGED else "1:8 along the outputs") in draw(architecture)


def test_another_figure_is_refused(entry: Entry) -> None:
    path = entry.path / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"nonzero_macs": 7}))
    with pytest.raises(UsageError, match="nonzero_macs 7"):
        igcsearch.load(entry.path)
