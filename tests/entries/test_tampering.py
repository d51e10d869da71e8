"""An entry may come from anybody: whatever is changed in it is found and named before anything is used."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from igcsearch.entries import Entry, create_model, list_models, load, read_entry
from igcsearch.errors import UsageError


@pytest.mark.parametrize("where", [0, 9, 500, -1])
def test_flipped_byte_of_the_weights(entry: Entry, where: int) -> None:
    content = bytearray(entry.weights.read_bytes())
    content[where] ^= 1
    entry.weights.write_bytes(content)
    with pytest.raises(UsageError, match=r"SHA-256 .* damaged or was changed"):
        load(entry.path)


def test_cut_weights(entry: Entry) -> None:
    entry.weights.write_bytes(entry.weights.read_bytes()[:-10])
    with pytest.raises(UsageError, match="SHA-256"):
        load(entry.path)


def test_pickle_in_place_of_weights_is_never_opened(entry: Entry, change_metrics: Any, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    content = pickle.dumps(Trap())
    entry.weights.write_bytes(content)
    change_metrics(weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(UsageError, match="no safetensors file"):
        load(entry.path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("change", ["shape", "missing", "extra", "type"])
def test_tensors_that_do_not_fit(
    entry: Entry, change_metrics: Any, weights: dict[str, torch.Tensor], change: str
) -> None:
    """With a right hash but wrong tensors, the error names the tensor and both shapes."""
    tensors = {key: value.clone() for key, value in weights.items()}
    if change == "shape":
        tensors["classifier.weight"] = torch.zeros(5, 17)
        message = r"classifier.weight has shape \(5, 17\), expected \(5, 16\)"
    elif change == "missing":
        del tensors["classifier.bias"]
        message = "classifier.bias is missing"
    elif change == "extra":
        tensors["extra"] = torch.zeros(1)
        message = "extra does not belong to it"
    else:
        tensors["classifier.bias"] = tensors["classifier.bias"].half()
        message = "classifier.bias has type torch.float16, expected torch.float32"
    content = save(tensors)
    entry.weights.write_bytes(content)
    change_metrics(weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(UsageError, match=message):
        load(entry.path)


def test_only_the_first_mismatches_are_named(entry: Entry, change_metrics: Any) -> None:
    content = save({f"t{i}": torch.zeros(1) for i in range(30)})
    entry.weights.write_bytes(content)
    change_metrics(weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(UsageError, match=r"and \d+ more") as caught:
        load(entry.path)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", 3, None, "a\\b", "C:x", "a\0b"])
def test_path_outside_the_folder(entry: Entry, change_metrics: Any, name: object) -> None:
    (entry.path.parent / "secret").write_bytes(b"x")
    change_metrics(weights=name)
    with pytest.raises(UsageError, match="outside the entry's folder"):
        read_entry(entry.path)


@pytest.mark.parametrize("file", ["weights.safetensors", "metrics.json", "architecture.json"])
def test_link_that_leads_outside(entry: Entry, tmp_path: Path, file: str) -> None:
    shutil.move(entry.path / file, tmp_path / file)
    (entry.path / file).symlink_to(tmp_path / file)
    with pytest.raises(UsageError, match="outside the entry's folder"):
        load(entry.path)


def test_link_inside_the_folder_is_fine(entry: Entry) -> None:
    entry.weights.rename(entry.path / "blob")
    entry.weights.symlink_to("blob")
    load(entry.path)


@pytest.mark.parametrize("file", ["metrics.json", "architecture.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
def test_not_json(entry: Entry, file: str, content: bytes) -> None:
    (entry.path / file).write_bytes(content)
    with pytest.raises(UsageError, match=file):
        read_entry(entry.path)


def test_newer_schema(entry: Entry) -> None:
    path = entry.path / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 999}))
    with pytest.raises(UsageError, match="newer"):
        read_entry(entry.path)


def test_newer_format_of_the_metrics(entry: Entry, change_metrics: Any) -> None:
    change_metrics(format=2)
    with pytest.raises(UsageError, match="format 2"):
        read_entry(entry.path)


@pytest.mark.parametrize(
    "fields",
    [
        {"params": 1},
        {"macs": 1},
        {"weights_sha256": "0"},
        {"weights_sha256": None},
        {"accuracy": 98.5},
        {"accuracy": "0.9"},
        {"accuracy": True},
        {"seeds": 3},
        {"latency": [1]},
        {"latency": {"median_ms": "fast"}},
        {"seeds": [1]},
        {"mean": [0.5]},
        {"std": [0.5, None, 0.5]},
    ],
)
def test_figures_that_cannot_be(entry: Entry, change_metrics: Any, fields: dict[str, Any]) -> None:
    change_metrics(**fields)
    with pytest.raises(UsageError, match=next(iter(fields))):
        read_entry(entry.path)


@pytest.mark.parametrize("file", ["weights.safetensors", "metrics.json", "architecture.json"])
def test_missing_file_is_named(entry: Entry, file: str) -> None:
    (entry.path / file).unlink()
    with pytest.raises(UsageError, match=f"no entry: {file} missing"):
        create_model(str(entry.path), pretrained=True)


def test_folder_that_is_no_entry(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no entry: architecture.json, metrics.json, weights.safetensors missing"):
        load(tmp_path)


def test_broken_entry_does_not_hide_the_others(entry: Entry, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(entry.path, entry.path.parent / "broken")
    (entry.path.parent / "broken" / "metrics.json").write_text("{")
    assert list_models(pretrained=True) == ["net-digits-1k"]
    assert "broken" in caplog.text
