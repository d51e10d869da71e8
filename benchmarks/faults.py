"""Kills parts of a running search, with kill -9, and looks at what is left: a real study on digits, trained on a Ray cluster.

    python -m benchmarks.faults --fault worker --times 10 --out DIR [--json FILE]

Faults: worker (a training process), node (a raylet with all below it; another node takes its place), driver (the search
itself; then the same command with resume), postgres (the database server; it comes back after some seconds). Checked in the
end: as many candidates are complete as were asked for, none failed, runs or waits, no network and no finished epoch was
trained twice, the front is the one that the records give. A line for each kill; status 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks.facts import facts
from igcsearch.search import Study, open_study
from igcsearch.search.engines.ray_guard import below
from igcsearch.search.engines.trainer import Trainer
from igcsearch.search.engines.worker import architecture_of
from igcsearch.search.jobs import Job
from igcsearch.training import Group

FAULTS = ("worker", "node", "driver", "postgres")
LOG = "IGCSEARCH_FAULTS_LOG"


class LoggingTrainer(Trainer):
    """The real trainer; it writes down each epoch that is told. An epoch read back from a checkpoint took the same seconds."""

    def train(
        self,
        job: Job,
        on_epoch: Callable[[dict[str, Any]], bool],
        on_note: Callable[[str], None],
        group: Group | None = None,
    ) -> dict[str, Any]:
        digest = architecture_of(job).hash

        def told(record: dict[str, Any]) -> bool:
            with open(os.environ[LOG], "a") as log:
                log.write(f"{digest} {record['epoch']} {record['seconds']!r}\n")
            return on_epoch(record)

        return super().train(job, told, on_note, group)


def search(out: Path, options: dict[str, Any]) -> None:
    """The search, in the process that is killed."""
    from igcsearch.search import SearchConfig, run_search
    from igcsearch.search.engines.ray_engine import RayEngine
    from igcsearch.spec import Budget
    from igcsearch.training import DataSpec

    where = {name: options.pop(name) for name in ("storage", "study_name") if name in options}
    config = SearchConfig("digits", DataSpec("digits"), Budget(params=20_000), engine="ray", **options)
    engine = RayEngine(config, out, trainer=f"{Path(__file__).absolute()}:LoggingTrainer")
    run_search(config, out, resume=True, engine=engine, **where)


def main() -> int:
    """Parse, kill, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", choices=FAULTS, required=True)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0, help="least seconds between two kills")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--search", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.search is not None:
        search(given.out, json.loads(given.search))
        return 0
    given.out.mkdir(parents=True)
    os.environ[LOG] = str((given.out / "epochs.log").absolute())
    Path(os.environ[LOG]).touch()
    with ExitStack() as stack:
        row = Run(given, stack).run()
    print(json.dumps(row, indent=1))
    if given.json:
        given.json.write_text(json.dumps({**facts(), "rows": [row]}, indent=1) + "\n")
    return 0 if row["wrong"] == [] else 1


class Run:
    """One study and its kills."""

    def __init__(self, given: argparse.Namespace, stack: ExitStack) -> None:
        self.given, self.random = given, random.Random(given.seed)
        self.options: dict[str, Any] = {"trials": given.trials, "epochs": given.epochs, "workers": given.workers}
        self.cluster: Any = None
        self.server: Any = None
        if given.fault == "node":
            from ray.cluster_utils import Cluster

            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            stack.callback(self.cluster.shutdown)
            for _ in range(given.workers):
                self.cluster.add_node(num_cpus=1)
            self.options["address"] = self.cluster.address
        if given.fault == "postgres":
            from benchmarks.servers import PostgresServer

            self.server = stack.enter_context(PostgresServer.start())
            self.options |= {"storage": self.server.url, "study_name": "faults"}
        self.process = self.start()
        stack.callback(self.end)

    def start(self) -> subprocess.Popen[bytes]:
        """The search in a process of its own."""
        command = [sys.executable, "-m", "benchmarks.faults", "--fault", self.given.fault, "--out", str(self.given.out)]
        command += ["--search", json.dumps(self.options)]
        log = open(self.given.out / "search.log", "ab")  # noqa: SIM115 - the process's
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def end(self) -> None:
        """End the search, should it still be there."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def run(self) -> dict[str, Any]:
        """Kill so many times, wait for the end, check."""
        begin, kills, before = time.monotonic(), 0, 0
        while kills < self.given.times:
            if self.process.poll() is not None:
                break  # it ended before it was killed often enough
            done = len(_lines())
            if done <= before:
                time.sleep(0.2)
                continue
            time.sleep(self.given.pause + self.random.uniform(0.0, 4.0))
            if self.strike():
                kills, before = kills + 1, len(_lines())
                print(f"{time.monotonic() - begin:6.1f} s  kill {kills} of a {self.given.fault}", flush=True)
        status = self.process.wait(timeout=3600)
        study = open_study(self.given.out)
        wrong = check(study, self.given.trials)
        if status != 0:
            wrong.append(f"the search ended with status {status}: see search.log")
        if kills < self.given.times:
            wrong.append(f"it was killed {kills} times only: raise --trials")
        failed = [candidate.reason for candidate in study.candidates(("failed",))]
        row = {"fault": self.given.fault, "kills": kills, "seconds": round(time.monotonic() - begin, 1)}
        return {
            **row,
            "complete": study.status()["complete"],
            "epochs": len(_epochs()),
            "failed": failed,
            "wrong": wrong,
        }

    def strike(self) -> bool:
        """Kill once; False if there was nothing to kill."""
        fault = self.given.fault
        if fault == "driver":
            self.process.kill()
            self.process.wait()
            self.process = self.start()
            return True
        if fault == "postgres":
            self.server.kill()
            time.sleep(self.random.uniform(1.0, 6.0))
            self.server.restart()
            return True
        workers = [pid for pid in below(self.process.pid if fault == "worker" else os.getpid()) if _works(pid)]
        if not workers:
            return False
        victim = self.random.choice(workers)
        if fault == "worker":
            _kill(victim)
            return True
        raylet = _raylet_of(victim)
        if raylet is None:
            return False
        _kill(raylet, *below(raylet))  # as a machine that loses its power
        for _ in range(3):  # on a busy machine a raylet may take longer than Ray waits for it
            with suppress(Exception):
                self.cluster.add_node(num_cpus=1, wait=False)
                break
        return True


def check(study: Study, trials: int) -> list[str]:
    """What is not as it should be."""
    wrong, status = [], study.status()
    for name, want in (("failed", 0), ("running", 0), ("waiting", 0)):
        if status[name] != want:
            wrong.append(f"{status[name]} candidates are {name}")
    if status["complete"] + status["stopped"] != trials:
        wrong.append(f"{status['complete']} complete and {status['stopped']} stopped, {trials} were asked for")
    candidates = study.candidates(("complete", "stopped"))
    if len({c.key for c in candidates}) != len(candidates):
        wrong.append("a network was trained twice")
    for (digest, epoch), seconds in _epochs().items():
        if len(seconds) > 1:
            wrong.append(f"epoch {epoch} of {digest} was trained {len(seconds)} times")
    for c in candidates:
        if [record["epoch"] for record in c.curve] != list(range(1, c.epochs + 1)):
            wrong.append(f"candidate {c.id} has a curve with gaps")
    complete = study.comparable()
    points = {c.id: (-(c.accuracy or 0.0), c.params, c.macs) for c in complete}
    beaten = {a for a in points for b in points if points[b] != points[a] and _no_worse(points[b], points[a])}
    best = {points[id] for id in points if id not in beaten}
    if {points[c.id] for c in study.front()} != best:
        wrong.append("the front is not the one that the records give")
    return wrong


def _no_worse(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))


def _works(pid: int) -> bool:
    """True for a Ray worker at work."""
    name = _read(pid, "cmdline").replace("\0", " ")
    return name.startswith("ray::") and "IDLE" not in name and "Agent" not in name


def _raylet_of(pid: int) -> int | None:
    while pid > 1:
        stat = _read(pid, "stat")
        if "raylet" in stat.rpartition(")")[0]:
            return pid
        pid = int((stat.rpartition(")")[2].split() or ["", "0"])[1])
    return None


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except OSError:
        return ""


def _kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _lines() -> list[str]:
    return Path(os.environ[LOG]).read_text().splitlines()


def _epochs() -> dict[tuple[str, str], set[str]]:
    """(hash, epoch) to the different times that it took: as many as it was trained."""
    found: dict[tuple[str, str], set[str]] = {}
    for line in _lines():
        digest, epoch, seconds = line.split()
        found.setdefault((digest, epoch), set()).add(seconds)
    return found


if __name__ == "__main__":
    sys.exit(main())
