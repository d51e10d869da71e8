"""`igcsearch export`: one line or one JSON document on stdout, nothing else anywhere, a file; or one line of what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from igcsearch.entries import list_entries

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shipped() -> tuple[str, Path]:
    """Name and folder of the smallest network of the package."""
    entry = min((entry for entry in list_entries() if entry.zoo == "package"), key=lambda e: e.architecture.params)
    return entry.name, entry.path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# In a process of its own, where what compiled libraries print is seen too.
def test_onnx_is_the_default_and_prints_nothing_else(shipped: tuple[str, Path], process: Run, tmp_path: Path) -> None:
    status, out, err = process("export", shipped[0], "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert {"name", "path", "format", "batch", "size", "difference", "metadata"} == set(found)
    assert (found["path"], found["format"], found["batch"]) == (f"{shipped[0]}.onnx", "onnx", "dynamic")
    assert found["size"] == (tmp_path / found["path"]).stat().st_size
    assert found["difference"] <= 1e-4
    assert found["metadata"]["versions"]["onnxruntime"]


def test_one_line_of_what_was_written(shipped: tuple[str, Path], igcsearch: Run, tmp_path: Path) -> None:
    command = ["export", shipped[1], "--format", "torch-export", "--batch", 2]
    status, out, err = igcsearch(*command)
    assert (status, err) == (0, "")
    assert out.startswith(f"{shipped[0]}.pt2: torch-export, ")
    assert out.endswith("\n")
    assert out.count("\n") == 1
    for words in (" kB, batches of 2", "largest difference from the network "):
        assert words in out
    refused = igcsearch(*command)
    assert refused == (
        2,
        "",
        f"error: '{shipped[0]}.pt2' exists already; choose another name, or overwrite it (--overwrite)\n",
    )
    assert igcsearch(*command, "--overwrite")[0] == 0


def test_refuses_in_one_line(
    shipped: tuple[str, Path], igcsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    name, folder = shipped
    refused = [
        ([], ["ENTRY", "igcsearch export --help"]),
        ([name[:-1]], ["no model", name]),
        ([tmp_path / "nowhere"], ["nowhere"]),
        ([folder / "architecture.json"], ["architecture alone", "igcsearch train"]),
        ([name, "--format", "torch"], ["unknown format 'torch'", "torch-export"]),
        ([name, "--batch", "0"], ["--batch '0'", "dynamic"]),
        ([name, "--batch", "-1"], ["--batch '-1'"]),
        ([name, "--batch", "1M"], ["1024"]),
        ([name, "--out", "x.pt2"], ["torch-export", ".onnx"]),
        ([name, "--out", "no/x.onnx"], ["no folder 'no'"]),
        ([name], ["onnxscript", "pip install 'igcsearch[export]'"]),
    ]
    for arguments, words in refused:
        status, out, err = igcsearch("export", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), arguments
        assert err.startswith("error: ")
        for word in words:
            assert word in err
    assert not list(tmp_path.iterdir())
