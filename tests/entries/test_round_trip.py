"""An entry gives back exactly what was written: same bits, same answers, all figures; and its card says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from igcsearch.entries import Entry, create_model, list_entries, load, read_entry, read_folder, write_entry
from igcsearch.entries.models import read_weights
from igcsearch.nn import StagedNetwork
from igcsearch.spec import Architecture


def test_weights_come_back_bit_for_bit(entry: Entry, weights: dict[str, torch.Tensor]) -> None:
    back = read_weights(read_folder(entry.path))
    assert list(back)
    assert set(back) == set(weights)
    assert all(torch.equal(back[key], weights[key]) and back[key].dtype == weights[key].dtype for key in weights)


def test_logits_are_those_of_the_written_network(
    entry: Entry, architecture: Architecture, weights: dict[str, torch.Tensor]
) -> None:
    original = StagedNetwork(architecture)
    original.load_state_dict(weights)
    images_NCHW = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = original.eval()(images_NCHW)
        assert torch.equal(create_model("net-digits-1k", pretrained=True)(images_NCHW), expected)
        assert torch.equal(load(entry.path)(images_NCHW), expected)


def test_metrics_are_kept_and_completed(entry: Entry, architecture: Architecture, metrics: dict[str, Any]) -> None:
    assert {key: entry.metrics[key] for key in metrics} == metrics
    assert entry.metrics["params"] == architecture.params
    assert entry.metrics["macs"] == architecture.macs
    assert entry.name == entry.metrics["name"] == "net-digits-1k"
    assert entry.architecture == architecture
    assert entry.architecture.hash == architecture.hash


def test_network_tells_how_to_feed_it(entry: Entry) -> None:
    cfg = create_model(entry.name, pretrained=True).pretrained_cfg
    assert cfg["input_size"] == (3, 8, 8)
    assert cfg["mean"] == (0.1, 0.2, 0.3)
    assert cfg["num_classes"] == 5
    assert cfg["class_names"][0] == "a"
    assert cfg["license"] == "CC BY 4.0"


def test_card_is_made_of_the_same_fields(entry: Entry) -> None:
    text = (entry.path / "README.md").read_text()
    front, body = text.split("---\n")[1:3]
    for line in front.splitlines():  # every value of the front matter is JSON, which YAML includes
        json.loads(line.split(": ", 1)[1])
    assert 'library_name: "igcsearch"' in front
    assert '"CC BY 4.0"' not in body.split("## Data")[0]
    for part in ("95.00 ± 1.41 % (2 seeds)", f"{entry.architecture.params:,}", "1,234", "2,345", "1.25 ms median"):
        assert part in body, part
    for part in ("CC BY 4.0", "tpe", "params 20000", entry.metrics["weights_sha256"], "branches of 2", "interleave"):
        assert part in body, part
    assert "igcsearch.create_model" in body
    assert "c\\|d" in body
    assert "<script>" not in body


def test_card_without_measurements(
    tmp_path: Path, architecture: Architecture, weights: dict[str, torch.Tensor]
) -> None:
    entry = write_entry(tmp_path / "bare", architecture, weights, {})
    assert "not measured" in (entry.path / "README.md").read_text()


def test_further_files_come_with_the_entry(
    tmp_path: Path, architecture: Architecture, weights: dict[str, torch.Tensor]
) -> None:
    entry = write_entry(tmp_path / "it", architecture, weights, {}, more={"record.json": "{}"})
    assert (entry.path / "record.json").read_text() == "{}"


def test_loading_needs_no_search_library(entry: Entry) -> None:
    """A found network runs without the search: floors 0, 1, 3 and 4 alone (and fvcore is only for measuring)."""
    code = (
        "import sys, igcsearch; m = igcsearch.create_model(sys.argv[1], pretrained=True, num_classes=7);"
        "bad = {'optuna', 'ray', 'pandas', 'fvcore', 'torchvision', 'sklearn'} & set(sys.modules);"
        "assert not bad, bad;"
        "up = [n for n in sys.modules if n.startswith(('igcsearch.training', 'igcsearch.search', 'igcsearch.publish'))];"
        "assert not up, up; print(m.architecture.num_classes)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(entry.path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "7"


def test_listing_needs_no_torch(entry: Entry) -> None:
    code = "import sys, igcsearch; print(igcsearch.list_models('net-*')); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['net-digits-1k']"


def test_entries_are_listed_with_their_zoo(entry: Entry) -> None:
    assert [(found.name, found.zoo) for found in list_entries()] == [("net-digits-1k", "user")]
    assert read_entry(entry.path).zoo == "path"
