"""Several coordinators on one PostgreSQL study, with candidates that train in no time.

    python -m benchmarks.coordinators [--trials 2000 --coordinators 2 --workers 4 --sampler random] [--json FILE] [--profile DIR]

Starts a server of its own (servers.py) and N searches in processes of their own, each with its workers. Checked is what must hold:
every process ends with 0, exactly so many candidates are complete, no architecture twice, none was trained twice (each worker
notes what it trains), each is claimed once, nothing is left running or waiting. Reported are candidates a second from the first
candidate to the last, and for each coordinator the shares of its time in the database, in the sampler with the space, and waiting
for its workers. `--profile` writes each coordinator's cProfile there (and slows it down).
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from igcsearch.blocks import FAMILIES
from igcsearch.blocks.assemble import network, stage
from igcsearch.search.engines.worker import WorkerSpec, architecture_of
from igcsearch.search.jobs import DataFacts, Job
from igcsearch.spec import Architecture, Problem

NAME = "coordinators"
SPACE, TRAINER = f"{__file__}:space", f"{__file__}:Instant"  # by path: the workers load them from this file
_LOG = "IGCSEARCH_BENCHMARK_LOG"


def space(trial: Any, problem: Problem) -> Architecture:
    """About 28,000 networks; at random, one of thirty proposals of 2,000 was seen before."""
    family = trial.suggest_categorical("family", ("xception", "dense"))
    stages, before = [], 8
    for number in range(3):
        width, depth = 8 * trial.suggest_int(f"width{number}", 1, 6), trial.suggest_int(f"depth{number}", 1, 4)
        stages.append(stage(FAMILIES[family], before, width, depth))
        before = width
    return network(problem, 8, stages)


class Instant:
    """A trainer that trains nothing; one line in the log for each candidate."""

    def __init__(self, spec: WorkerSpec) -> None:
        assert spec.recipe is not None
        self.facts = DataFacts("none", 8, 1, 10, 1000, 100, 100, spec.recipe.to_dict(), threads=spec.threads)

    def time_step(self, job: Job) -> float:
        """No time."""
        return 0.0

    def latency(self, job: Job) -> float:
        """No time."""
        return 0.0

    def train(
        self, job: Job, on_epoch: Callable[[dict[str, Any]], bool], on_note: Callable[[str], None]
    ) -> dict[str, Any]:
        """Report one epoch."""
        with open(os.environ[_LOG], "a") as log:
            log.write(f"{architecture_of(job).hash}\n")
        record = {"epoch": 1, "validation_accuracy": (int(job.recipe["seed"]) % 997) / 997, "seconds": 0.0}
        on_epoch(record)
        result = {"accuracy": record["validation_accuracy"], "epochs": 1, "curve": [record], "seconds": 0.0}
        return result | {"stopped": False, "device": "cpu", "threads": 1}


def coordinate(url: str, out: Path, given: dict[str, Any]) -> None:
    """One coordinator's whole search, in a process of its own; prints what it found as JSON."""
    from igcsearch.search import SearchConfig, events, run_search
    from igcsearch.search.engines.local import LocalEngine
    from igcsearch.training import DataSpec, Recipe

    profile = cProfile.Profile() if given["profile"] else None
    config = SearchConfig(
        space=SPACE,
        data=DataSpec("digits"),
        recipe=Recipe(epochs=1),
        trials=given["trials"],
        sampler=given["sampler"],
        stopping="none",
        workers=given["workers"],
        threads_per_worker=1,
    )
    spent, marks, settled = defaultdict[str, float](float), list[float](), 0

    def on_event(event: events.Event) -> None:
        nonlocal settled
        settled += isinstance(event, events.ProposalSettled)
        if isinstance(event, events.CandidateStarted | events.Finished):
            if not marks:
                spent.clear()  # what came before is the start
                spent["processor"] = -time.process_time()
            marks.append(time.time())

    with _measured(spent), profile or contextlib.nullcontext():
        engine = LocalEngine(config, trainer=TRAINER)
        run_search(config, out, storage=url, study_name=NAME, engine=engine, on_event=on_event)
    if profile is not None:
        profile.dump_stats(Path(given["profile"]) / f"coordinator-{out.name}.pstats")
    spent["processor"] += time.process_time()
    wall = marks[-1] - marks[0]
    print(json.dumps({"first": marks[0], "last": marks[-1], "wall": wall, "settled": settled, **spent}))


@contextlib.contextmanager
def _measured(spent: defaultdict[str, float]) -> Iterator[None]:
    """Seconds of this thread in the database's driver, in proposals beyond that, and in waiting for workers."""
    import psycopg

    from igcsearch.search import samplers
    from igcsearch.search.engines import local

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - begin
                spent[f"{name} calls"] += 1

        return run

    changes = [
        (psycopg.Cursor, "execute", "statements"),
        (psycopg.Connection, "commit", "commits"),
        (psycopg.Connection, "rollback", "rollbacks"),
        (local, "wait_for", "waiting"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    made = samplers.make_sampler

    def make(*arguments: Any) -> Any:
        sampler = made(*arguments)
        for name in ("infer_relative_search_space", "sample_relative", "sample_independent"):
            setattr(sampler, name, timed("sampler", getattr(sampler, name)))
        return sampler

    users = [module for name, module in list(sys.modules.items()) if name.startswith("igcsearch.search")]
    users = [module for module in users if getattr(module, "make_sampler", None) is made]
    for owner, name, label in changes:
        setattr(owner, name, timed(label, getattr(owner, name)))
    for module in users:
        module.make_sampler = make  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)
        for module in users:
            module.make_sampler = made  # type: ignore[attr-defined]


def check(url: str, trials: int, log: Path) -> dict[str, Any]:
    """What must hold of the finished study; figures of it.

    Raises:
        AssertionError: it does not hold.
    """
    import sqlalchemy
    from optuna.trial import TrialState

    from igcsearch.search import open_study

    study = open_study(storage=url, study=NAME)
    status, complete = study.status(), study.candidates(("complete",))
    keys, trained = Counter(c.key for c in complete), Counter(log.read_text().split())
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        claims = connection.execute(sqlalchemy.text("SELECT count(*) FROM igcsearch_claims WHERE counted")).scalar_one()
    engine.dispose()
    found = {
        "complete": status["complete"],
        "claims": int(claims),
        "duplicates": sum(count - 1 for count in keys.values()),
        "trained twice": sum(count - 1 for count in trained.values()),
        "failed": status["failed"],
        "settled": status["settled"],
        "left": len(study.optuna.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))),
        "proposals": len(study.optuna.get_trials(deepcopy=False)),
    }
    study.close()
    for name, right in {"complete": trials, "claims": trials, "duplicates": 0, "trained twice": 0, "failed": 0}.items():
        assert found[name] == right, f"{name}: {found[name]}, not {right} ({found})"
    assert not found["left"], found
    assert set(trained) == {c.hash for c in complete}
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run the coordinators on a server of their own; the row."""
    from benchmarks.servers import PostgresServer

    options = {name: getattr(given, name) for name in ("trials", "workers", "sampler", "profile")}
    with PostgresServer.start() as server, tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "log"
        log.touch()
        script = [sys.executable, "-m", "benchmarks.coordinators", "--url", server.url]
        begin = time.monotonic()
        processes = [
            subprocess.Popen(
                [*script, "--out", str(folder / str(number)), "--given", json.dumps(options)],
                stdout=subprocess.PIPE,
                env={**os.environ, _LOG: str(log)},
                text=True,
            )
            for number in range(given.coordinators)
        ]
        try:
            said = [process.communicate(timeout=given.timeout)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert [process.returncode for process in processes] == [0] * given.coordinators, "a coordinator failed"
        found = check(server.url, given.trials, log)
        whole = time.monotonic() - begin
    each = [json.loads(text) for text in said]
    wall = max(one["last"] for one in each) - min(one["first"] for one in each)
    row = {"coordinators": given.coordinators, "workers": given.workers, "sampler": given.sampler, **found}
    return row | {"wall_s": wall, "whole_s": whole, "candidates_per_s": given.trials / wall, "each": each}


def report(row: dict[str, Any]) -> None:
    """The row in words."""
    what = ", ".join(f"{name} {row[name]}" for name in ("complete", "duplicates", "trained twice", "failed", "settled"))
    print(f"{row['coordinators']} coordinators with {row['workers']} workers each, sampler {row['sampler']}: {what}")
    print(
        f"{row['candidates_per_s']:.1f} candidates a second ({row['wall_s']:.1f} s, with the start {row['whole_s']:.1f} s)"
    )
    for number, one in enumerate(row["each"]):
        parts = [f"{name} {one.get(name, 0) / one['wall']:.0%}" for name in ("statements", "commits", "rollbacks")]
        parts += [f"{name} {one.get(name, 0) / one['wall']:.0%}" for name in ("sampler", "waiting")]
        print(f"  coordinator {number}: {one['wall']:.1f} s, of which {', '.join(parts)}, the rest Python")
    processor = sum(one["processor"] for one in row["each"])
    print(f"  {1e3 * processor / row['complete']:.0f} ms of the coordinators' processor time for each candidate")
    calls = {
        name: sum(one.get(f"{name} calls", 0) for one in row["each"]) for name in ("statements", "commits", "rollbacks")
    }
    per = ", ".join(f"{count / row['complete']:.1f} {name}" for name, count in calls.items())
    print(f"  for each candidate: {per}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("trials", 2000), ("coordinators", 2), ("workers", 4), ("timeout", 1800)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sampler", default="random")
    for name in ("json", "profile", "url", "out", "given"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS if name in ("url", "out", "given") else None)
    given = parser.parse_args()
    if given.given:
        coordinate(given.url, Path(given.out), json.loads(given.given))
        return
    from benchmarks.facts import save

    row = measure(given)
    report(row)
    save(given.json, [row])


if __name__ == "__main__":
    main()
