"""Reference networks by name: create_model builds them, entries of their name come first, weights they have none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from igcsearch.blocks.references import REFERENCES, Reference
from igcsearch.entries import Entry, create_model, find_model, list_models, list_references, load, read_entry
from igcsearch.errors import UsageError
from igcsearch.nn import build

SMALL = "resnet20_cifar10"


def test_create_model_knows_their_names(zoos: dict[str, Path]) -> None:
    net = create_model(SMALL)
    assert net.training
    assert net.architecture == REFERENCES[SMALL].architecture
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    torch.manual_seed(0)
    expected = build(net.architecture)
    torch.manual_seed(0)
    again = create_model(SMALL)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in expected.state_dict().items())


def test_timms_conventions_hold_for_them(zoos: dict[str, Path]) -> None:
    net = create_model(SMALL, num_classes=7, in_chans=1)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    cfg = net.pretrained_cfg
    assert (cfg["name"], cfg["input_size"], cfg["num_classes"]) == (SMALL, (1, 32, 32), 7)
    assert (cfg["mean"], cfg["class_names"], cfg["license"]) == (None, None, None)
    assert create_model(SMALL, num_classes=0)(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    with pytest.raises(UsageError, match="num_classes 1"):
        create_model(SMALL, num_classes=1)


def test_they_have_no_weights(zoos: dict[str, Path]) -> None:
    with pytest.raises(
        UsageError, match=r"has no weights: leave pretrained out, or choose one of list_models\(pretrained=True\)"
    ):
        create_model(SMALL, pretrained=True)
    with pytest.raises(UsageError, match="is a reference network, an architecture without weights"):
        read_entry(SMALL)
    with pytest.raises(UsageError, match="does not exist"):
        load(SMALL)


def test_they_are_listed_unless_weights_are_asked_for(entry: Entry) -> None:
    assert list_models("igcv3_d_*") == [
        f"igcv3_d_{kind}" for kind in ("025", "050", "075", "100", "cifar10", "cifar100")
    ]
    assert list_models() == sorted([entry.name, *REFERENCES])
    assert list_models(pretrained=True) == [entry.name]
    assert list_models("igcv*", pretrained=True) == []
    assert {row.table for row in list_references("igcv2*")} == {"igcv2-figure3", "igcv2-table7", "igcv2-imagenet"}


def test_another_image_size(zoos: dict[str, Path]) -> None:
    net = create_model("resnet18", num_classes=10, image_size=64)
    assert net.pretrained_cfg["input_size"] == (3, 64, 64)
    assert net.architecture.macs < REFERENCES["resnet18"].architecture.macs
    with pytest.raises(UsageError, match="shrinks images 32 times, so 31 pixels a side are too few: use at least 32"):
        create_model("resnet18", image_size=31)


def test_unknown_names_are_told_near_ones(zoos: dict[str, Path]) -> None:
    with pytest.raises(
        UsageError, match=r"'RESNET18' .did you mean 'resnet18'.*`igcsearch list --references` the networks"
    ):
        create_model("RESNET18")
    with pytest.raises(UsageError, match=r"no model 'resnet_18' \(did you mean .*'resnet18'"):
        create_model("resnet_18")


# Rule: an entry of the same name wins, in a zoo or here; a folder that is none does not hide the reference.
def test_entries_of_their_name_come_first(
    entry: Entry, zoos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(find_model(SMALL), Reference)
    (tmp_path / SMALL).mkdir()
    assert isinstance(find_model(SMALL), Reference)
    (tmp_path / SMALL).rmdir()
    shutil.copytree(entry.path, tmp_path / SMALL)
    found = find_model(SMALL)
    assert isinstance(found, Entry)
    assert found.zoo == "path"
    shutil.copytree(entry.path, zoos["user"] / SMALL)
    found = find_model(SMALL)
    assert isinstance(found, Entry)
    assert found.zoo == "user"
    assert list_models(SMALL) == [SMALL]
    assert create_model(SMALL, pretrained=True).architecture == entry.architecture


def test_listing_them_needs_no_torch() -> None:
    code = "import sys, igcsearch; print(igcsearch.list_models('mobilenet*')); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mobilenetv2_100" in done.stdout
