"""What an engine adds to each candidate: seconds after start-up, with candidates of known duration.

    python -m benchmarks.engines --json FILE [--workers 2 --candidates 60 --long 12 --repeat 1 --runs optuna,local,tuner,ray]

Candidates do nothing, or sleep; each reports one epoch. The overhead is the wall-clock time from when every worker is warm (two
candidates for each have ended) to the end, by the number of candidates, less a candidate's duration by the number of workers. The
shares of storage and sampler are the coordinator's own: seconds in Optuna's ask, tell and records, and in the space, per candidate.
Beside them, the same work by a plain `study.optimize` and by a plain `tune.Tuner` with OptunaSearch, both with a candidate's
parameters and one report, on the same kind of storage.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from igcsearch.search import SearchConfig, events, run_search
from igcsearch.search.engines.worker import WorkerSpec
from igcsearch.search.jobs import DataFacts, Job
from igcsearch.training import DataSpec, Recipe

from .facts import save

PARAMETERS = 8  # of the plain objectives; about what the digits space asks for


class Sleeper:
    """A trainer that sleeps: `DataSpec.split_seed` milliseconds a candidate (a field that travels to every worker)."""

    def __init__(self, spec: WorkerSpec) -> None:
        assert spec.recipe is not None
        self._seconds = spec.data.split_seed / 1000
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
        """Sleep, and report one epoch."""
        time.sleep(self._seconds)
        accuracy = (job.id % 97) / 97
        record = {"epoch": 1, "validation_accuracy": accuracy, "seconds": self._seconds}
        on_epoch(record)
        result = {"accuracy": accuracy, "epochs": 1, "curve": [record], "seconds": self._seconds, "stopped": False}
        return result | {"device": "cpu", "threads": 1}


def by_engine(engine: str, candidates: int, seconds: float, workers: int, folder: Path) -> dict[str, float]:
    """A search with an engine: seconds per candidate in all, in the storage, and in sampler and space."""
    config = SearchConfig(
        space="digits",
        data=DataSpec("digits", split_seed=round(seconds * 1000)),
        recipe=Recipe(epochs=1),
        trials=candidates + 2 * workers,
        sampler="random",
        stopping="none",
        workers=workers,
        threads_per_worker=1,
        engine=engine,
    )
    trainer = "benchmarks.engines:Sleeper"
    marks: list[float] = []

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.Finished):
            marks.append(time.perf_counter())

    made: Any
    if engine == "ray":
        from igcsearch.search.engines.ray_engine import RayEngine

        made = RayEngine(config, folder, trainer=trainer)
    else:
        from igcsearch.search.engines.local import LocalEngine

        made = LocalEngine(config, trainer=trainer)
    with _timed() as spent:
        run_search(config, folder, engine=made, on_event=on_event).close()
    wall = marks[-1] - marks[2 * workers - 1]  # once every worker is warm
    return {"wall": wall / candidates, **{name: value / (candidates + 2 * workers) for name, value in spent.items()}}


def by_optuna(candidates: int, seconds: float, workers: int, folder: Path) -> dict[str, float]:
    """Optuna alone, its threads as workers."""
    folder.mkdir(parents=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}", sampler=optuna.samplers.RandomSampler(seed=0)
    )

    def objective(trial: optuna.Trial) -> float:
        _draw(trial)
        time.sleep(seconds)
        trial.report(0.5, 1)
        return 0.5

    begin = time.perf_counter()
    study.optimize(objective, n_trials=candidates, n_jobs=workers)
    return {"wall": (time.perf_counter() - begin) / candidates}


def by_tuner(candidates: int, seconds: float, workers: int, folder: Path) -> dict[str, float]:
    """A plain Tuner with OptunaSearch, its processes used again."""
    import logging
    import os

    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    folder.mkdir(parents=True)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the other one prints even where it is to be silent
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
    marks: list[float] = []

    class Marks(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            marks.append(time.perf_counter())

    def candidate(config: dict[str, Any]) -> None:
        time.sleep(seconds)
        tune.report({"accuracy": 0.5})

    space = {f"x{number}": tune.choice(range(6)) for number in range(PARAMETERS)}
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    search = OptunaSearch(metric="accuracy", mode="max", sampler=optuna.samplers.RandomSampler(seed=0), storage=storage)
    tune.Tuner(
        candidate,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=candidates + 2 * workers, max_concurrent_trials=workers, reuse_actors=True
        ),
        run_config=tune.RunConfig(name="plain", storage_path=str(folder), verbose=0, callbacks=[Marks()]),
    ).fit()
    ray.shutdown()
    return {"wall": (marks[-1] - marks[2 * workers - 1]) / candidates}


def _draw(trial: optuna.Trial) -> None:
    for number in range(PARAMETERS):
        trial.suggest_categorical(f"x{number}", range(6))


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds in Optuna's storage, and in asking the sampler and the space (the storage's share of that taken off)."""
    from igcsearch.search.coordinator import Coordinator

    spent = {"storage": 0.0, "sampler and space": 0.0}
    backend = optuna.storages.RDBStorage
    names = [name for name in vars(backend) if name.startswith(("set_", "create_new_trial", "get_", "record_"))]
    before: list[tuple[Any, str, Any]] = [(backend, name, getattr(backend, name)) for name in names]
    before.append((Coordinator, "_propose", Coordinator._propose))
    inside = [0]

    def storing(call: Any) -> Any:
        def timed(*arguments: Any, **named: Any) -> Any:
            inside[0] += 1
            begin = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                inside[0] -= 1
                if not inside[0]:
                    spent["storage"] += time.perf_counter() - begin

        return timed

    def proposing(call: Any) -> Any:
        def timed(*arguments: Any, **named: Any) -> Any:
            begin, stored = time.perf_counter(), spent["storage"]
            try:
                return call(*arguments, **named)
            finally:
                spent["sampler and space"] += time.perf_counter() - begin - (spent["storage"] - stored)

        return timed

    for owner, name, call in before:
        setattr(owner, name, proposing(call) if name == "_propose" else storing(call))
    try:
        yield spent
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)


def main() -> None:
    """Measure, print the table, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=60, help="of 0 seconds, in one run")
    parser.add_argument("--long", type=int, default=12, help="candidates of 5 seconds, in one run; 0 leaves them out")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--runs", default="optuna,local,tuner,ray")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways: dict[str, Callable[..., dict[str, float]]] = {
        "optuna": by_optuna,
        "tuner": by_tuner,
        "local": lambda *arguments: by_engine("local", *arguments),
        "ray": lambda *arguments: by_engine("ray", *arguments),
    }
    rows: list[dict[str, Any]] = []
    print("| run | candidate | overhead of each | storage | sampler and space |")
    print("|---|---|---|---|---|")
    for seconds, candidates in ((0.0, given.candidates), (5.0, given.long)):
        for name in given.runs.split(",") if candidates else ():
            found = []
            for _ in range(given.repeat):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(ways[name](candidates, seconds, given.workers, Path(folder) / "study"))
            # with n workers a candidate of s seconds takes s / n of the whole; what is above that is overhead
            added = [each["wall"] - seconds / given.workers for each in found]
            shares = {key: statistics.median(each[key] for each in found) for key in found[0] if key != "wall"}
            row = {"run": name, "seconds": seconds, "workers": given.workers, "candidates": candidates}
            rows.append(row | {"overhead": statistics.median(added), "all": added, **shares})
            cells = [f"{shares[key]:.3f} s" if key in shares else "-" for key in ("storage", "sampler and space")]
            print(f"| {name} | {seconds:g} s | {statistics.median(added):.3f} s | {' | '.join(cells)} |", flush=True)
    save(given.json, rows)


if __name__ == "__main__":
    main()
