"""What the search tests share: the fakes module, configurations, a coordinator without processes, and a way to drive it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

from igcsearch.search.checkpoints import FOLDER, Checkpoints
from igcsearch.search.config import SearchConfig
from igcsearch.search.coordinator import Coordinator, Plan
from igcsearch.search.jobs import DataFacts
from igcsearch.search.samplers import population_size
from igcsearch.search.sqlite import SqlitePlace
from igcsearch.search_spaces import get_space
from igcsearch.spec import Architecture
from igcsearch.training import DataSpec, Recipe

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _load(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(f"igcsearch_test_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FAKES = _load("fakes", Path(__file__).with_name("fakes.py"))


@pytest.fixture
def fakes() -> ModuleType:
    return FAKES


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    """A real PostgreSQL server, where its programs are installed."""
    servers = _load("servers", Path(__file__).parents[2] / "benchmarks" / "servers.py")
    if servers.programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with servers.PostgresServer.start() as server:
        yield server


def _config(**changes: Any) -> SearchConfig:
    return SearchConfig(
        **{"space": FAKES.SPACE, "data": DataSpec("digits"), "recipe": Recipe(epochs=3), "trials": 6} | changes
    )


@pytest.fixture
def config() -> Callable[..., SearchConfig]:
    """A configuration of the fake space; fields by keyword."""
    return _config


class Driven:
    """A coordinator on a study in memory (or a given one) that a test can drive."""

    def __init__(
        self,
        folder: Path,
        study: optuna.Study | None = None,
        stopping: str = "none",
        sizes: tuple[int, int] = (8, 1),
        **changes: Any,
    ) -> None:
        self.config = _config(**changes)
        directions = ["maximize"] + ["minimize"] * (len(self.config.objectives) - 1)
        self.study = study or optuna.create_study(directions=directions)
        self.events: list[Any] = []
        facts = DataFacts("fake", *sizes, 10, 1000, 100, 100, self.config.recipe.to_dict())
        self.coordinator = Coordinator(
            self.study,
            self.config,
            space=get_space(self.config.space),
            facts=facts,
            plan=Plan(stopping, population_size(self.config.trials)),
            place=SqlitePlace(folder),
            checkpoints=Checkpoints(folder / FOLDER),
            table=None if self.config.latency is None else FAKES.macs_table(),
            emit=self.events.append,
        )

    def train(self, job: Any) -> None:
        """Report and finish one job as a worker would."""
        architecture, curve, go_on = Architecture.from_json(job.architecture), [], True
        while go_on and len(curve) < job.recipe["epochs"]:
            epoch = len(curve) + 1
            curve.append({"epoch": epoch, "validation_accuracy": FAKES.accuracy(architecture, epoch), "seconds": 0.0})
            go_on = self.coordinator.report(job.id, curve[-1])
        stopped = len(curve) < job.recipe["epochs"]
        result = {
            "accuracy": curve[-1]["validation_accuracy"],
            "epochs": len(curve),
            "curve": curve,
            "stopped": stopped,
        }
        self.coordinator.finished(job.id, result)

    def run(self, jobs: int | None = None) -> int:
        """Train up to so many jobs, one after another; how many there were."""
        done = 0
        while (jobs is None or done < jobs) and (job := self.coordinator.next_job()) is not None:
            self.train(job)
            done += 1
        return done


@pytest.fixture
def driven(tmp_path: Path) -> Callable[..., Driven]:
    """A coordinator without processes."""
    return lambda *args, **changes: Driven(tmp_path, *args, **changes)
