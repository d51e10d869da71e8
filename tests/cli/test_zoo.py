"""`igcsearch zoo build` as people and programs use it: a real ladder on digits, its files, its JSON, its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
OPTIONS = ("--seeds", 1, "--epochs", 1, "--min-candidates", 2, "--workers", 2, "--device", "cpu")


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['igcsearch', 'zoo', 'build', '--help']\n"
        "from igcsearch.cli import main\n"
        "try: main()\n"
        "finally: print('imported', [n for n in ('torch', 'numpy', 'optuna', 'ray') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "igcsearch zoo build DIR --ladder" in done.stdout
    assert "--json" in done.stdout
    assert done.stderr == "imported []\n"


def test_zoo_alone_shows_its_commands(igcsearch: Run) -> None:
    result = igcsearch("zoo")
    assert result.status == 2
    assert "build" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a ladder needs at least one rung; give --ladder"),
        (("--ladder", "20q"), "--ladder: rung '20q' cannot be read"),
        (("--ladder", "1k,,2k"), "--ladder: rung '' cannot be read"),
        (("--ladder", "2k,1k"), "rung 1k comes after the larger 2k"),
        (("--ladder", "1k,1000"), "rung 1k is there twice"),
        (("--ladder", "1k,2k", "--ladder-macs", "1M"), "--ladder has 2 rungs, --ladder-macs has 1"),
        (("--ladder", "5k"), "rung params-5k is above the study's own budget of 4,000 parameters"),
        (("--ladder", "1k", "--top", "0"), "--top '0' must be above 0"),
        (("--ladder", "1k", "--engine", "rya"), "unknown engine 'rya'"),
        (("--ladder", "1k", "--address", "here:1"), "needs engine 'ray'"),
    ],
)
def test_bad_input_is_one_line_and_trains_nothing(
    searched: tuple[Path, Any], igcsearch: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = igcsearch("zoo", "build", searched[0], "--to", tmp_path / "zoo", *arguments)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert not (tmp_path / "zoo").exists()


def test_no_study_is_said(igcsearch: Run, tmp_path: Path) -> None:
    assert "holds no study" in igcsearch("zoo", "build", tmp_path, "--ladder", "1k").err
    assert "no study was given" in igcsearch("zoo", "build", "--ladder", "1k").err


@pytest.mark.slow  # two real searches and retrainings
@pytest.mark.timeout(400)
def test_a_real_ladder_on_digits(searched: tuple[Path, Any], process: Run, tmp_path: Path) -> None:
    """Two rungs and one that cannot be; then the same command again; then the zoo is used."""
    zoo = tmp_path / "zoo"
    command = ("zoo", "build", searched[0], "--ladder", "100,1k,4k", "--to", zoo, *OPTIONS)
    first = process(*command)
    assert first.status == 1
    assert re.findall(r"^error: rung (\S+): no architecture", first.err, re.MULTILINE) == ["params-100"]
    assert "rung params-1k (2 of 3): at most 1,000 parameters" in first.err
    assert "[2/2] candidate" in first.err, "the search's own progress"
    assert "params-4k" in first.out
    page = (zoo / "index.html").read_text(encoding="utf-8")
    assert "params-1k" in page
    again = process(*command, "--json")
    assert again.status == 1
    document = json.loads(again.out)
    assert [rung["state"] for rung in document["rungs"]] == ["failed", "kept", "kept"]
    assert document["page"] == str(zoo / "index.html")
    for entry in document["entries"]:
        assert (Path(entry["path"]) / "weights.safetensors").is_file()
        assert entry["rungs"]
        listed = process("list", entry["name"], "--json", IGCSEARCH_ZOO=str(zoo))
        assert json.loads(listed.out)[0]["params"] == entry["params"] <= 4_000
    smallest = min(document["entries"], key=lambda entry: entry["params"])
    assert smallest["params"] <= 1_000
