"""A small network of two families, its metrics, and zoos that belong to the test alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import igcsearch.entries.zoo as zoo_module
from igcsearch.blocks import dense, igcv2, network, stage
from igcsearch.entries import Entry, write_entry
from igcsearch.nn import build
from igcsearch.spec import Architecture, Problem


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def architecture() -> Architecture:
    problem = Problem(image_size=8, in_channels=3, num_classes=5)
    return network(problem, 8, [stage(igcv2, 8, 8, 2, branch_widths=(2, 4)), stage(dense, 8, 16, 1, stride=2)])


@pytest.fixture
def metrics() -> dict[str, Any]:
    runs = [
        {"seed": 0, "validation_accuracy": 0.97, "test_accuracy": 0.96, "seconds": 3.0},
        {"seed": 1, "validation_accuracy": 0.95, "test_accuracy": 0.94, "seconds": 3.1},
    ]
    return {
        "family": "igcv2+dense",
        "data": "digits",
        "accuracy": 0.95,
        "accuracy_std": 0.0141,
        "seeds": runs,
        "weights_seed": 0,
        "macs_fvcore": 1234,
        "fvcore_total": 2345,
        "latency": {"median_ms": 1.25, "p90_ms": 1.5, "device": "cpu", "threads": 1, "batch": 1, "dtype": "float32"},
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "class_names": ["a", "b", "c|d", "e<script>", "f"],
        "licence": "CC BY 4.0",
        "recipe": {"epochs": 2, "lr": 0.1},
        "split": {"train": 10, "validation": 5, "test": 5, "seed": 0},
        "epochs": 2,
        "train_images": 10,
        "versions": {"python": "3.11", "torch": "2.15"},
        "commit": None,
        "provenance": {"study": "s", "trial": 7, "sampler": "tpe", "seed": 0, "budget": {"params": 20000}},
    }


@pytest.fixture
def weights(architecture: Architecture) -> dict[str, torch.Tensor]:
    """Weights of a network that has seen data, so that running statistics are not at their defaults."""
    net = build(architecture, seed=1)
    net(torch.randn(16, 3, 8, 8))
    return net.state_dict()


@pytest.fixture
def zoos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """An empty package zoo and an empty user's zoo."""
    folders = {"package": tmp_path / "package", "user": tmp_path / "user"}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setattr(zoo_module, "package_zoo", lambda: folders["package"])
    monkeypatch.setenv("IGCSEARCH_ZOO", str(folders["user"]))
    return folders


@pytest.fixture
def entry(
    zoos: dict[str, Path], architecture: Architecture, weights: dict[str, torch.Tensor], metrics: dict[str, Any]
) -> Entry:
    return write_entry(zoos["user"] / "net-digits-1k", architecture, weights, metrics)


@pytest.fixture
def change_metrics(entry: Entry) -> Any:
    """Change fields of the entry's metrics.json, as somebody who tampers would."""

    def change(**fields: Any) -> None:
        path = entry.path / "metrics.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change
