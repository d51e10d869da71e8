"""Writing is all or nothing, for readers beside it and for kill -9 at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import igcsearch.entries.write as write_module
from igcsearch.entries import Entry, load, read_folder, write_entry
from igcsearch.entries.models import read_weights
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture

State = dict[str, torch.Tensor]


def test_existing_entry_is_kept_unless_asked(
    entry: Entry, architecture: Architecture, weights: State, metrics: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="exists already"):
        write_entry(entry.path, architecture, weights, {**metrics, "epochs": 9})
    assert read_folder(entry.path).metrics["epochs"] == 2
    (entry.path / "left-over").touch()
    new = write_entry(entry.path, architecture, weights, {**metrics, "epochs": 9}, overwrite=True)
    assert new.metrics["epochs"] == 9
    assert not (entry.path / "left-over").exists()
    assert os.listdir(entry.path.parent) == [entry.name], "nothing is left beside it"


def test_foreign_folder_is_never_overwritten(
    tmp_path: Path, architecture: Architecture, weights: State, metrics: dict[str, Any]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="no entry"):
        write_entry(tmp_path / "mine", architecture, weights, metrics, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_empty_folder_is_filled(
    tmp_path: Path, architecture: Architecture, weights: State, metrics: dict[str, Any]
) -> None:
    (tmp_path / "out").mkdir()
    write_entry(tmp_path / "out", architecture, weights, metrics)
    load(tmp_path / "out")


@pytest.mark.parametrize("change", [{"epochs": float("nan")}, {"epochs": {1}}, {"accuracy": object()}])
def test_metrics_that_are_no_json(
    tmp_path: Path, architecture: Architecture, weights: State, change: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="not JSON"):
        write_entry(tmp_path / "out", architecture, weights, change)
    assert not list(tmp_path.iterdir())


def test_metrics_that_no_reader_would_take(tmp_path: Path, architecture: Architecture, weights: State) -> None:
    with pytest.raises(UsageError, match="one number a channel"):
        write_entry(tmp_path / "out", architecture, weights, {"mean": [0.5]})
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network(tmp_path: Path, architecture: Architecture, weights: State) -> None:
    with pytest.raises(UsageError, match=r"classifier.weight has shape \(5, 16\), expected \(7, 16\)"):
        write_entry(tmp_path / "out", architecture.with_(num_classes=7), weights, {})
    assert not list(tmp_path.iterdir())


def test_unwritable_folder(tmp_path: Path, architecture: Architecture, weights: State) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_entry(tmp_path / "file" / "out", architecture, weights, {})


def test_failing_write_leaves_the_old_entry(
    entry: Entry,
    architecture: Architecture,
    weights: State,
    metrics: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk in the middle: the old entry is whole and nothing is left beside it."""

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module, "sync_folder", full)
    with pytest.raises(UsageError, match="No space left"):
        write_entry(entry.path, architecture, weights, {**metrics, "epochs": 9}, overwrite=True)
    assert read_folder(entry.path).metrics["epochs"] == 2
    assert os.listdir(entry.path.parent) == [entry.name]


def test_two_renames_where_the_system_cannot_exchange(
    entry: Entry, architecture: Architecture, weights: State, metrics: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_module, "_exchange", lambda first, second: False)
    assert (
        write_entry(entry.path, architecture, weights, {**metrics, "epochs": 9}, overwrite=True).metrics["epochs"] == 9
    )
    assert os.listdir(entry.path.parent) == [entry.name]


def test_interrupted_pair_of_renames_is_mended(
    entry: Entry, architecture: Architecture, weights: State, metrics: dict[str, Any]
) -> None:
    """Killed between two renames: reading says where the old entry is, the next write puts it back."""
    entry.path.rename(entry.path.with_name(f".{entry.name}.old-1-aa"))
    with pytest.raises(UsageError, match="interrupted overwriting"):
        read_folder(entry.path)
    with pytest.raises(UsageError, match="cannot be written"):
        write_entry(entry.path, architecture, weights, metrics)
    assert read_folder(entry.path).metrics["epochs"] == 2


def test_stale_leftovers_are_removed(entry: Entry, architecture: Architecture, weights: State) -> None:
    old, young = (entry.path.with_name(f".{entry.name}.new-{n}-aa") for n in (1, 2))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (time.time() - 2 * write_module.STALE_SECONDS,) * 2)
    write_entry(entry.path, architecture, weights, {}, overwrite=True)
    assert not old.exists()
    assert young.exists()


WRITER = """
import sys
import torch
torch.set_num_threads(1)
from igcsearch.entries import read_folder, write_entry
from igcsearch.nn import StagedNetwork
entry = read_folder(sys.argv[1])
state = StagedNetwork(entry.architecture).state_dict()
number = 0
while True:
    number += 1
    state = {key: torch.full_like(value, number) for key, value in state.items()}
    write_entry(entry.path, entry.architecture, state, {"number": number}, overwrite=True)
    if number == 1:
        print("written", flush=True)
"""


def test_killed_writer_leaves_old_or_new(entry: Entry) -> None:
    """kill -9 at random moments, and a reader beside the writer: the entry is there and whole, always."""
    for attempt in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(entry.path)], stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"written\n"
            deadline = time.monotonic() + random.Random(attempt).uniform(0.02, 0.4)
            while time.monotonic() < deadline:
                assert entry.path.is_dir()
        finally:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
        found = read_folder(entry.path)
        tensors = read_weights(found)
        number = found.metrics["number"]
        assert all((value == number).all() for value in tensors.values())
