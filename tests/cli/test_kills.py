"""kill -9 of a real search (`igcsearch search digits`) at random moments, then --resume: nothing finished is lost or repeated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

COMMAND = "from igcsearch.cli import main; main()"
SEARCH = ["search", "digits", "--trials", "8", "--epochs", "8", "--max-params", "20k", "--workers", "2", "--seed", "0"]


def checkpointed(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The curve in each checkpoint, by architecture hash; the epochs' times tell a training that was repeated."""
    from safetensors import safe_open

    curves = {}
    for file in (folder / "candidates").glob("*/checkpoint*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            curves[file.parent.name] = json.loads(opened.metadata()["igcsearch"])["curve"]
    return curves


def run(folder: Path, *, kill_after: float | None) -> None:
    """The same command with --resume each time; killed with all its workers left to notice by themselves."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *SEARCH, "--out", str(folder), "--resume"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=kill_after or 900)
        assert process.returncode == 0, output
    except subprocess.TimeoutExpired:
        assert kill_after is not None, "the search did not end"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    from igcsearch.search import open_study

    stream, folder = random.Random(0), tmp_path / "study"
    finished: dict[str, tuple[float | None, float]] = {}
    went_on = kills = 0
    while kills < 10:
        before = checkpointed(folder)
        run(folder, kill_after=stream.uniform(6, 25))
        kills += 1
        time.sleep(2)  # workers notice that their coordinator is dead
        if not (folder / "study.db").exists():
            continue
        study = open_study(folder)
        complete = {c.hash: (c.accuracy, c.seconds) for c in study.candidates(("complete",))}
        assert len(complete) == len(study.candidates(("complete",))), "a network was trained twice"
        for name, facts in finished.items():
            assert complete[name] == facts, "a finished candidate was lost or trained again"
        curves = {c.hash: c.curve for c in study.candidates(("complete",))} | checkpointed(folder)
        for name, curve in before.items():
            if name in curves and name not in finished:
                assert curves[name][: len(curve)] == curve, "a candidate began anew"
                went_on += len(curves[name]) > len(curve) > 0
        finished = complete
        study.close()
    run(folder, kill_after=None)
    study = open_study(folder)
    status = study.status()
    assert (status["complete"], status["running"], status["waiting"], status["failed"]) == (8, 0, 0, 0)
    assert Counter(c.hash for c in study.candidates(("complete",))).most_common(1)[0][1] == 1
    assert went_on > 0, "no kill met a candidate under way; the test showed nothing"
    print(f"10 kills; {went_on} candidates went on from an epoch that a killed run had finished")
