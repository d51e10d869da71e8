"""What limits a search with many workers: the sampler's time for a suggestion, and the storage's for a candidate.

    python -m benchmarks.capacity [--json FILE] [--quick]

Candidates are instant, so only the coordinator's side is measured:
- sampler: `ask` and the space's proposal on studies in memory that hold 100, 1,000 and 5,000 finished candidates, the
  median of several, in processor time; spaces digits and cifar; every sampler (tpe and nsga2 also against a cost).
- storage: the whole coordinator (propose, record, report, tell) on SQLite and on PostgreSQL with a random sampler: milliseconds
  (first quartile), statements and transactions of a candidate, and of each further epoch; how long one claim takes.
Then, from these figures: how many workers keep one coordinator busy at 1, 10 and 60 minutes a candidate, and what 10 to 10,000 of
them ask of it. Rejected proposals cost as suggestions do: divide by the share that is accepted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from igcsearch.search.samplers import derived_seed, make_sampler, population_size
from igcsearch.search_spaces import get_space

from .facts import save
from .filled import PROBLEMS, fill, finished, insert
from .servers import PostgresServer, programs

FINISHED = (100, 1000, 5000)
SAMPLERS = (("tpe", 1), ("tpe", 2), ("nsga2", 1), ("nsga2", 2), ("random", 1), ("evolution", 1))
WORKERS, MINUTES = (10, 100, 1000, 10_000), (1, 10, 60)
FEW_AND_MANY = (1, 11)  # epochs of candidates, to tell the cost of one epoch
EPOCHS = 30  # of a candidate, where figures are put together


def suggestions(space: str, sampler: str, objectives: int, count: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a proposal with so many finished candidates, of this thread's processor time: median and range."""
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
    study = optuna.create_study(directions=directions[:objectives])
    fill(study, finished(space, count))
    proposer, problem, times = get_space(space).limited(("interleave", "random")), PROBLEMS[space], []
    for number in range(repeats + 1):
        begin = time.thread_time()
        study.sampler = make_sampler(sampler, derived_seed(0, number), population_size(count))
        trial = study.ask()
        proposer.propose(trial, problem)
        times.append(1e3 * (time.thread_time() - begin))
        study.tell(trial, state=TrialState.FAIL)
    times = times[1:]  # the first one makes what is kept: blocks, NSGA-II's parents
    row = {"kind": "sampler", "space": space, "sampler": sampler, "objectives": objectives, "finished": count}
    return row | {"ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times)}


class Probe:
    """Counts statements and transactions of every SQLAlchemy engine."""

    def __init__(self) -> None:
        self.counts = Counter[str]()

    @contextmanager
    def watching(self) -> Iterator[Probe]:
        """While it lasts. Writes are transactions that changed something."""
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        wrote = set[int]()

        def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            self.counts["statements"] += 1
            if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
                self.counts["rows"] += 1
                wrote.add(id(connection))

        def commit(connection: Any) -> None:
            if id(connection) in wrote:
                wrote.discard(id(connection))
                self.counts["writes"] += 1

        listeners = (("before_cursor_execute", before), ("commit", commit))
        for name, call in listeners:
            event.listen(Engine, name, call)
        try:
            yield self
        finally:
            for name, call in listeners:
                event.remove(Engine, name, call)


def storing(url: str | None, counts: tuple[int, ...], candidates: int) -> Iterator[dict[str, Any]]:
    """The coordinator's work of a candidate on one study that grows: milliseconds, statements, writes; with few epochs and many."""
    from igcsearch.search.checkpoints import Checkpoints
    from igcsearch.search.config import SearchConfig
    from igcsearch.search.coordinator import Coordinator, Plan
    from igcsearch.search.jobs import DataFacts
    from igcsearch.search.places import place_at
    from igcsearch.search.run import _attributes
    from igcsearch.search.storage import close
    from igcsearch.training import DataSpec, Recipe

    recipe = Recipe(epochs=max(FEW_AND_MANY))
    config = SearchConfig(
        space="digits",
        data=DataSpec("digits"),
        budget=PROBLEMS["digits"].budget,
        recipe=recipe,
        trials=100_000,
        sampler="random",
        stopping="none",
    )
    facts = DataFacts("none", 8, 1, 10, 1000, 100, 100, recipe.to_dict())
    with tempfile.TemporaryDirectory() as name:
        place = place_at(name, url, "capacity" if url else None)
        with place.held():
            close(place.create(["maximize"], _attributes(config, facts)))
            for count in counts:
                study = place.load()
                there = len(study.get_trials(deepcopy=False))
                insert(study, finished("digits", max(counts))[there:count], there)
                coordinator = Coordinator(
                    study,
                    config,
                    space=get_space("digits").limited(("interleave", "random")),
                    facts=facts,
                    plan=Plan("none", 50),
                    place=place,
                    checkpoints=Checkpoints(Path(name) / "candidates"),
                )
                row = {"kind": "storage", "storage": "postgresql" if url else "sqlite", "finished": count}
                yield from ({**row, **each} for each in drive(coordinator, place, candidates))
                place.leave()
                close(study)


def drive(coordinator: Any, place: Any, candidates: int) -> list[dict[str, float]]:
    """Take candidates through the coordinator, of few epochs and of many by turns; what each costs it."""
    probes = {epochs: Probe() for epochs in FEW_AND_MANY}
    walls: dict[int, list[float]] = {epochs: [] for epochs in FEW_AND_MANY}
    processor, claims = Counter[int](), []
    one_candidate(coordinator, 1)
    for number in range(candidates):
        for epochs in FEW_AND_MANY:
            with probes[epochs].watching():
                begin, worked = time.perf_counter(), time.thread_time_ns()
                one_candidate(coordinator, epochs)
                walls[epochs].append(1e3 * (time.perf_counter() - begin))
                processor[epochs] += time.thread_time_ns() - worked
        begin = time.perf_counter()
        place.claim(f"key {number}", 10**6 + number, 10**6)
        claims.append(1e3 * (time.perf_counter() - begin))
    rows = []
    for epochs, probe in probes.items():
        row: dict[str, float] = {name: probe.counts[name] / candidates for name in ("statements", "rows", "writes")}
        row |= {"epochs": epochs, "ms": _undisturbed(walls[epochs]), "median_ms": statistics.median(walls[epochs])}
        row |= {"processor_ms": processor[epochs] / 1e6 / candidates, "claim_ms": _undisturbed(claims)}
        rows.append(row)
    return rows


def _undisturbed(times: list[float]) -> float:
    """The first quartile: what other work on the machine added to the rest is not the coordinator's."""
    return statistics.quantiles(times, n=4)[0]


def one_candidate(coordinator: Any, epochs: int) -> None:
    """What an engine calls for a candidate."""
    job = coordinator.next_job()
    curve = [{"epoch": e + 1, "validation_accuracy": 0.5, "seconds": 1.0} for e in range(epochs)]
    for record in curve:
        coordinator.report(job.id, record)
    result = {"accuracy": 0.5, "epochs": epochs, "curve": curve, "seconds": float(epochs), "stopped": False}
    coordinator.finished(job.id, result | {"device": "cpu", "threads": 1})


def follows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each storage, sampler and age of the study: milliseconds and writes of a candidate of EPOCHS epochs, and the workers that
    one coordinator can keep busy."""
    found = []
    stored = [row for row in rows if row["kind"] == "storage"]
    for few, many in zip(stored[::2], stored[1::2], strict=True):  # the same with few epochs and with many
        more = (EPOCHS - few["epochs"]) / (many["epochs"] - few["epochs"])
        ms, writes = (few[key] + more * (many[key] - few[key]) for key in ("ms", "writes"))
        for row in rows:
            if row["kind"] == "sampler" and (row["space"], row["finished"]) == ("cifar", few["finished"]):
                made = {name: row[name] for name in ("sampler", "objectives", "finished")}
                made |= {"kind": "follows", "storage": few["storage"], "ms": ms + row["ms"], "writes": writes}
                found.append(made | {"workers": {m: int(60_000 * m / made["ms"]) for m in MINUTES}})
    return found


def report(rows: list[dict[str, Any]]) -> None:
    """The tables."""
    print("milliseconds of a suggestion (sampler and space), by finished candidates")
    groups: dict[tuple[str, str, int], dict[int, float]] = {}
    for row in rows:
        if row["kind"] == "sampler":
            groups.setdefault((row["space"], row["sampler"], row["objectives"]), {})[row["finished"]] = row["ms"]
    for (space, sampler, objectives), times in groups.items():
        cells = "".join(f"{times[count]:>10.1f}" for count in times)
        print(f"  {space:8s}{sampler:11s}{objectives} objective{'s' if objectives > 1 else ' '}{cells}")
    print("the coordinator's work of a candidate, without the sampler's")
    for row in rows:
        if row["kind"] == "storage":
            name = f"  {row['storage']:11s}{row['finished']:>6} finished {row['epochs']:>3} epochs"
            spent = f"{row['ms']:>8.1f} ms (median {row['median_ms']:.1f}, {row['processor_ms']:.1f} of processor)"
            counts = f"{row['statements']:.0f} statements, {row['writes']:.0f} writes"
            print(f"{name} {spent}; {counts}; a claim {row['claim_ms']:.2f} ms")
    print(f"what follows: {EPOCHS} epochs a candidate, space cifar; workers that one coordinator keeps busy")
    results = [row for row in rows if row["kind"] == "follows"]
    for row in results:
        busy = ", ".join(f"{count:,} at {minutes} min" for minutes, count in row["workers"].items())
        name = f"{row['sampler']} ({row['objectives']})"
        print(
            f"  {row['storage']:11s}{row['finished']:>6} finished  {name:14s}{row['ms']:>8.0f} ms a candidate: {busy}"
        )
    print("candidates and writes a second, and coordinators needed (tpe, one objective, 1,000 finished)")
    for row in results:
        if (row["sampler"], row["objectives"], row["finished"]) != ("tpe", 1, 1000):
            continue
        for workers in WORKERS:
            asked = []
            for minutes in MINUTES:
                rate = workers / (60 * minutes)
                each = f"{rate:7.2f}/s {rate * row['writes']:8.1f} writes/s {rate * row['ms'] / 1e3:6.2f}"
                asked.append(f"{minutes} min: {each}")
            print(f"  {row['storage']:11s}{workers:>6} workers  " + "   ".join(asked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="save the rows here")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, at most 1,000 finished candidates")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    counts, repeats = (FINISHED[:2], 3) if given.quick else (FINISHED, 9)
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(
            " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{value}" for name, value in row.items()),
            flush=True,
        )

    for row in storing(None, counts, 10 if given.quick else 40):
        keep(row)
    if programs() is None:
        print("PostgreSQL is not installed: not measured")
    else:
        with PostgresServer.start() as server:
            for row in storing(server.url, counts, 10 if given.quick else 40):
                keep(row)
    for space in PROBLEMS:
        for count in counts:
            for sampler, objectives in SAMPLERS:
                keep(suggestions(space, sampler, objectives, count, repeats))
    rows += follows(rows)
    report(rows)
    save(given.json, rows)


if __name__ == "__main__":
    main()
