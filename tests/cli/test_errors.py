"""Bad input: one clear line on stderr, status 2, nothing on stdout, no traceback, before any training."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SEARCH = [
    (["--max-params", "-5"], ["--max-params", "-5", "negative"]),
    (["--max-params", "0"], ["above 0"]),
    (["--max-params", "lots"], ["lots", "20k or 1.5M"]),
    (["--max-macs", "1.5"], ["no whole number"]),
    (["--max-latency", "0"], ["--max-latency", "above 0"]),
    (["--max-latency", "5min"], ["--max-latency", "unknown unit 'min'", "5ms or 0.5s"]),
    (["--max-latency", "fast"], ["--max-latency", "'fast'", "5ms or 0.5s"]),
    (["--max-latency", "5ms", "--latency-device", "gpu"], ["latency device 'gpu'", "cpu, cuda"]),
    (["--max-latency", "5ms", "--latency-batch", "0"], ["--latency-batch", "'0'"]),
    (["--max-latency", "5ms", "--latency-threads", "0"], ["--latency-threads", "'0'"]),
    (["--latency-threads", "2"], ["latency_threads", "--max-latency"]),
    (["--train-images", "1x"], ["--train-images"]),
    (["--trials", "0"], ["--trials", "'0'", "above 0"]),
    (["--trials", "-3"], ["--trials", "'-3'", "negative"]),
    (["--trials", "1.5"], ["--trials", "'1.5'", "whole number"]),
    (["--trials", "x"], ["--trials", "'x'", "cannot be read"]),
    (["--workers", "0"], ["--workers", "'0'"]),
    (["--workers", "two"], ["--workers", "'two'"]),
    (["--image-size", "x"], ["--image-size", "'x'"]),
    (["--threads", "0"], ["--threads", "'0'"]),
    (["--seed", "-1"], ["--seed", "'-1'", "at least 0"]),
    (["--lr", "fast"], ["--lr", "'fast'", "number"]),
    (["--lr", "nan"], ["--lr", "'nan'", "number"]),
    (["--tirals", "3"], ["--tirals", "'--trials'"]),
    (["--trials"], ["--trials", "argument"]),
    (["extra"], ["extra", "igcsearch search --help"]),
    (["--epochs", "0"], ["--epochs", "'0'"]),
    (["--timeout", "soon"], ["--timeout", "15m"]),
    (["--sampler", "tpee"], ["tpee", "tpe"]),
    (["--sampler", "grid", "--max-params", "20k"], ["needs a grid", "'schedule'", "igcv2_figure3"]),
    (["--families", "igcv2,monarhc"], ["'monarhc'", "did you mean 'monarch'", "igcv1, igcv2", "dense; or all"]),
    (["--families", ""], ["unknown family ''", "dense; or all"]),
    (
        ["--families", "dense", "--groups", "learned", "--max-params", "9k"],
        ["dense", "no group counts", "igcv2 or igcv3"],
    ),
    (["--objective", "speed"], ["speed", "accuracy"]),
    (["--objective", "accuracy,mac"], ["mac", "macs"]),
    (["--stopping", "halve"], ["halve", "halving"]),
    (["--engine", "slurm"], ["slurm", "local"]),
    (["--device", "gpu"], ["gpu", "cpu"]),
    (["--data", "digit"], ["digit", "digits"]),
    (["--data", "./nowhere"], ["nowhere", "not found"]),
    (["--data", "nowhere.npz"], ["nowhere.npz", "not found"]),
    (["--max-latency", "0.0001"], ["0.0001 ms", "the smallest network", "raise the budget"]),
    (["--max-params", "10"], ["10", "smallest", "raise the budget"]),
    (["--lr", "-1"], ["lr"]),
    (["--precision", "float8"], ["float8"]),
]


def is_clear(result: tuple[int, str, str], words: list[str]) -> bool:
    status, out, err = result
    assert status == 2, result
    assert out == ""
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err  # one line, its end included
    assert err.endswith("\n")
    for word in words:
        assert word in err, (word, err)
    return True


@pytest.mark.parametrize(("options", "words"), SEARCH, ids=lambda value: " ".join(value))
def test_search_refuses(options: list[str], words: list[str], igcsearch: Callable, tmp_path: Path) -> None:
    out = tmp_path / "study"
    assert is_clear(igcsearch("search", "digits", "--out", out, *options), words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("digit", ["digit", "'digits'"]),
        ("missing.py:space", ["missing.py"]),
        ("mobile", ["--data"]),
        ("igcv2_figure3", ["cifar100 not found", "--data-root"]),
    ],
)
def test_search_refuses_spaces(space: str, words: list[str], igcsearch: Callable, tmp_path: Path) -> None:
    assert is_clear(igcsearch("search", space, "--out", tmp_path / "study"), words)


def test_search_refuses_folders_of_images(igcsearch: Callable, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert is_clear(igcsearch("search", "digits", "--data", empty, "--out", tmp_path / "a"), ["empty"])
    from PIL import Image

    one = tmp_path / "one" / "cat"
    one.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((16, 16, 3), number, dtype=np.uint8)).save(one / f"{number}.png")
    assert is_clear(igcsearch("search", "digits", "--data", tmp_path / "one", "--out", tmp_path / "b"), ["class"])


def test_search_refuses_arrays(igcsearch: Callable, tmp_path: Path) -> None:
    arrays = {"x_train": np.zeros((20, 8, 8), np.uint8), "y_train": np.arange(20) % 2}
    np.savez(tmp_path / "half.npz", **arrays, x_test=arrays["x_train"])
    command = ["search", "digits", "--out", tmp_path / "study", "--data"]
    assert is_clear(igcsearch(*command, tmp_path / "half.npz"), ["half.npz", "y_test"])
    (tmp_path / "text.npz").write_text("no arrays")
    assert is_clear(igcsearch(*command, tmp_path / "text.npz"), ["text.npz"])
    assert not (tmp_path / "study").exists()


def test_search_reads_nothing_where_the_folder_is_wrong(
    igcsearch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_data(*_: object) -> None:
        raise AssertionError("the data are loaded before the folder is looked at")

    monkeypatch.setattr("igcsearch.training.load_data", load_data)
    (tmp_path / "file").write_text("")
    refused = igcsearch("search", "digits", "--lr", "0.1", "--out", tmp_path / "file" / "study")
    assert is_clear(refused, ["cannot write", "another output folder"])


def test_search_refuses_resume_without_a_folder(igcsearch: Callable) -> None:
    assert is_clear(igcsearch("search", "digits", "--resume"), ["--resume", "--out"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_search_refuses_a_folder_that_cannot_be_written(igcsearch: Callable, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert is_clear(igcsearch("search", "digits", "--out", tmp_path / "study"), ["cannot write"])


def test_search_refuses_a_file_as_folder(igcsearch: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert is_clear(igcsearch("search", "digits", "--out", tmp_path / "file" / "study"), ["another output folder"])


@pytest.mark.parametrize("command", ["status", "pareto", "report", "publish"])
def test_commands_refuse_what_is_no_study(command: str, igcsearch: Callable, tmp_path: Path) -> None:
    assert is_clear(igcsearch(command, tmp_path), ["no study"])
    assert is_clear(igcsearch(command, tmp_path / "missing"), ["missing"])


def test_commands_refuse_a_damaged_study(igcsearch: Callable, searched: tuple, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\0" + os.urandom(4000))
    for command in ("status", "pareto", "report", "publish"):
        assert is_clear(igcsearch(command, tmp_path), ["study.db"])


def test_search_refuses_another_question(igcsearch: Callable, searched: tuple, tmp_path: Path) -> None:
    folder = searched[0]
    before = (folder / "study.db").read_bytes()
    plain = ["search", "digits", "--trials", 3, "--epochs", 1, "--max-params", "4k", "--seed", 1, "--out", folder]
    assert is_clear(igcsearch(*plain), ["--resume"])
    assert is_clear(igcsearch("search", "cifar", "--data", "digits", *plain[2:], "--resume"), ["space"])
    assert is_clear(igcsearch(*plain, "--max-macs", "1M", "--resume"), ["--max-params"])
    assert is_clear(igcsearch(*plain, "--data", "mnist", "--resume"), ["data", "'digits'", "'mnist'", "--data"])
    assert is_clear(igcsearch(*plain, "--lr", "0.1"), ["--resume"])  # said before any data are loaded
    assert (folder / "study.db").read_bytes() == before


@pytest.mark.parametrize("command", ["profile", "check", "evaluate", "train"])
def test_commands_refuse_networks(command: str, igcsearch: Callable, entry: Path, tmp_path: Path) -> None:
    more = {"evaluate": ["--data", "digits"], "train": ["--data", "digits", "--out", tmp_path / "out"]}.get(command, [])
    assert is_clear(igcsearch(command, "no-such-network", *more), ["no-such-network"])
    assert is_clear(igcsearch(command, tmp_path / "nowhere", *more), ["nowhere"])
    assert is_clear(igcsearch(command, tmp_path / "nowhere.json", *more), ["nowhere.json"])
    newer = tmp_path / "newer"
    shutil.copytree(entry, newer)
    data = json.loads((newer / "architecture.json").read_text())
    (newer / "architecture.json").write_text(json.dumps(data | {"schema": 99}))
    assert is_clear(igcsearch(command, newer, *more), ["99", "newer"])
    assert is_clear(igcsearch(command, newer / "architecture.json", *more), ["99", "newer"])
    (newer / "architecture.json").write_text("{")
    assert is_clear(igcsearch(command, newer / "architecture.json", *more), ["not JSON"])
    outside = tmp_path / "outside"
    shutil.copytree(entry, outside)
    metrics = json.loads((outside / "metrics.json").read_text())
    (outside / "metrics.json").write_text(json.dumps(metrics | {"weights": "../weights.safetensors"}))
    assert is_clear(igcsearch(command, outside, *more), ["outside"])


def test_evaluate_refuses_what_does_not_fit(igcsearch: Callable, entry: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(entry, changed)
    weights = changed / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert is_clear(igcsearch("evaluate", changed, "--data", "digits"), ["weights"])
    arrays = {"x_train": np.zeros((20, 8, 8, 3), np.uint8), "y_train": np.arange(20) % 2}
    np.savez(tmp_path / "other.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"])
    assert is_clear(igcsearch("evaluate", entry, "--data", tmp_path / "other.npz"), ["channels"])
    grey = {"x_train": np.zeros((20, 8, 8), np.uint8), "y_train": np.arange(20) % 2}
    np.savez(tmp_path / "grey.npz", **grey, x_test=grey["x_train"], y_test=grey["y_train"])
    assert is_clear(igcsearch("evaluate", entry, "--data", tmp_path / "grey.npz"), ["classes"])
    assert is_clear(igcsearch("evaluate", entry / "architecture.json", "--data", "digits"), ["weights"])
    assert is_clear(igcsearch("evaluate", entry, "--data", "digits", "--batch-size", 0), ["--batch-size"])


def test_train_refuses_before_it_trains(igcsearch: Callable, entry: Path, tmp_path: Path) -> None:
    command = ["train", entry, "--data", "digits"]
    assert is_clear(igcsearch(*command, "--out", entry), ["exists already", "--overwrite"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert is_clear(igcsearch(*command, "--out", tmp_path / "full", "--overwrite"), ["is no entry"])
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    assert is_clear(igcsearch(*command, "--out", tmp_path / "full" / "mine.txt" / "x"), ["cannot be written"])
    assert is_clear(igcsearch(*command, "--out", tmp_path / "new", "--epochs", 0), ["--epochs"])
    architecture = entry / "architecture.json"
    refused = igcsearch("train", architecture, "--pretrained", "--data", "digits", "--out", tmp_path / "new")
    assert is_clear(refused, ["--pretrained"])
    assert not (tmp_path / "new").exists()


def test_publish_refuses_numbers(igcsearch: Callable, searched: tuple, tmp_path: Path) -> None:
    for option, value in (("--top", 0), ("--seeds", 0), ("--workers", 0), ("--epochs", 0), ("--agreement", 1)):
        assert is_clear(igcsearch("publish", searched[0], "--to", tmp_path, option, value), [option])


def test_publish_refuses_candidates(igcsearch: Callable, searched: tuple, tmp_path: Path) -> None:
    for value, words in (
        ("x", ["'x' is no id", "such as 62,55"]),
        ("1;2", ["'1;2' is no id"]),
        ("1,,2", ["'' is no id"]),
        ("-1", ["'-1' is no id"]),
        ("1,1", ["1 is there twice"]),
        ("999", ["no candidate 999", "trained are "]),
    ):
        refused = igcsearch("publish", searched[0], "--to", tmp_path / "zoo", "--candidates", value)
        assert is_clear(refused, ["candidates", *words] if value != "999" else words)
    both = igcsearch("publish", searched[0], "--to", tmp_path / "zoo", "--candidates", "1", "--top", "1")
    assert is_clear(both, ["--top", "--candidates", "exclude each other"])
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serch"], ["serch", "'search'"]),
        (["search"], ["SPACE", "igcsearch search --help"]),
        (["train", "x"], ["--data", "igcsearch train --help"]),
        (["--verison"], ["--verison", "'--version'"]),
        (["list", "--json=1"], ["--json"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_parsed_is_a_line_too(arguments: list[str], words: list[str], igcsearch: Callable) -> None:
    assert is_clear(igcsearch(*arguments), words)


def test_counts_may_be_given_short(igcsearch: Callable, searched: tuple) -> None:
    # It reads: what it refuses is the study that is there, not the number.
    assert is_clear(igcsearch("search", "digits", "--trials", "1k", "--out", searched[0]), ["--resume"])


def test_nothing_to_do_shows_the_help(igcsearch: Callable) -> None:
    status, out, err = igcsearch()
    assert (status, err) == (2, "")
    assert "search" in out


def test_errors_of_ours_are_a_line_too(igcsearch: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pattern: str) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("igcsearch.entries.list_entries", broken)
    status, out, err = igcsearch("list")
    assert (status, out) == (1, "")
    assert err == "error: RuntimeError: two lines (set IGCSEARCH_DEBUG=1 to see the traceback)\n"
    monkeypatch.setenv("IGCSEARCH_DEBUG", "1")
    with pytest.raises(RuntimeError):
        igcsearch("list")


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = "from igcsearch.cli import main; main()"
    # A reader that is gone before the first byte: `igcsearch list --help | true`.
    with subprocess.Popen(
        [sys.executable, "-c", program, "search", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""
