"""kill -9 of a build at any moment: the same command goes on, and what was finished is not trained again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igcsearch.entries import read_folder
from igcsearch.search import open_study

from .ladders import parent

PROGRAM = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
if __name__ == "__main__":
    sys.argv[0] = "ladders"
    runpy.run_module("tests.publish.ladders", run_name="__main__")
"""
LADDER = [5_000, 20_000, 40_000]


class Build:
    """The command, with its folder and its log of what was trained."""

    def __init__(self, folder: Path) -> None:
        self.study, self.zoo, self.log = folder / "study", folder / "zoo", folder / "log"
        self._program = folder / "program.py"
        self._program.write_text(PROGRAM)
        parent(self.study, trials=6).close()
        self.log.touch()

    def start(self, **options: Any) -> subprocess.Popen[str]:
        given = json.dumps({"ladder": LADDER, "seeds": 2, **options})
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "FAKE_LOG": str(self.log), "FAKE_EPOCH": "0.1", "FAKE_RETRAIN": "0.1"}
        command = [sys.executable, str(self._program), root, str(self.study), str(self.zoo), given]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def killed_when(self, moment: Callable[[], bool], seconds: float = 90.0) -> bool:
        """Kill a build once `moment` has come; False if it ended before."""
        process = self.start()
        end = time.monotonic() + seconds
        while process.poll() is None and not moment():
            assert time.monotonic() < end, "the moment did not come"
            time.sleep(0.02)
        ended = process.poll() is not None
        if not ended:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        return not ended

    def finish(self) -> str:
        process = self.start()
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        return output

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()]

    def check(self, kills: int) -> None:
        """Every rung has its entry; every candidate is trained once, but for the epoch under way at each kill."""
        lines = self.lines()
        epochs = Counter((hash, epoch) for hash, epoch, _ in lines if hash != "retrained")
        assert sum(count - 1 for count in epochs.values()) <= kills
        retrained = Counter((hash, seed) for word, hash, seed in lines if word == "retrained")
        assert set(retrained.values()) == {1}
        keys: Counter[str] = Counter()
        for limit in LADDER:
            study = open_study(self.study / "zoo" / f"params-{limit // 1000}k")
            status = study.status()
            assert (status["running"], status["waiting"], status["failed"]) == (0, 0, 0)
            assert status["complete"] >= 4
            found = [candidate.key for candidate in study.candidates(("complete",))]
            assert len(found) == len(set(found))
            keys.update(found)
            record = json.loads((study.path / "rung.json").read_text())
            for name in record["entries"]:
                origin = read_folder(self.zoo / name).metrics["provenance"]
                assert record["rung"] in origin["rungs"]
            study.close()
        assert not list((self.study / "publish").rglob("checkpoint*"))


@pytest.mark.timeout(240)
def test_killed_in_a_search_and_in_a_retraining_it_goes_on(tmp_path: Path) -> None:
    build = Build(tmp_path)
    assert build.killed_when(lambda: len(build.lines()) >= 3), "in the first rung's search"
    assert build.killed_when(lambda: any(line[0] == "retrained" for line in build.lines())), "in its retrainings"
    before = [line for line in build.lines() if line[0] == "retrained"]
    output = build.finish()
    build.check(2)
    assert build.lines()[: len(before)]
    assert "rung params-5k: done" in output
    assert build.finish().count("complete before") == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_at_random_moments(tmp_path: Path) -> None:
    build, stream, kills = Build(tmp_path), random.Random(0), 0
    while kills < 10:
        moment = time.monotonic() + stream.uniform(3, 20)
        if not build.killed_when(lambda moment=moment: time.monotonic() > moment):
            break
        kills += 1
    build.finish()
    build.check(kills)
    assert kills > 2, "the build was over too soon to show anything"
    print(f"{kills} kills")
