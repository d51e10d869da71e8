"""What the tests of ladders share: a parent study with instant training, retrainings that train nothing, a build of both.

Also a program, for tests that kill it: python ladders.py STUDY ZOO OPTIONS-AS-JSON. FAKE_LOG gets a line for each epoch of a
candidate (hash, epoch, process) and for each retraining ("retrained", hash, seed); FAKE_RETRAIN is the seconds of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import igcsearch.publish.rounds as rounds
from igcsearch.files import atomic_write
from igcsearch.nn import build
from igcsearch.publish.ladder import Zoo, build_zoo
from igcsearch.publish.retrain import Job
from igcsearch.publish.rungs import make_ladder
from igcsearch.search import SearchConfig, Study, open_study, run_search
from igcsearch.search.engines.local import LocalEngine
from igcsearch.search.retrained import write_json
from igcsearch.spec import Architecture, Budget
from igcsearch.training import DataSpec, Recipe

FAKES_PATH = Path(__file__).parents[1] / "search" / "fakes.py"
_spec = spec_from_file_location("igcsearch_test_fakes_of_ladders", FAKES_PATH)
assert _spec is not None
assert _spec.loader is not None
FAKES: Any = module_from_spec(_spec)
sys.modules[_spec.name] = FAKES
_spec.loader.exec_module(FAKES)

PARENT_BUDGET = 60_000
RECIPE = Recipe(epochs=2, batch_size=64)


def parent(folder: Path, trials: int = 12, **changes: Any) -> Study:
    """A study of the fake space, finished."""
    values = {"space": FAKES.SPACE, "data": DataSpec("digits"), "budget": Budget(PARENT_BUDGET), "recipe": RECIPE}
    config = SearchConfig(**{**values, "trials": trials, "device": "cpu", **changes})
    return run_search(config, folder, engine=LocalEngine(config, trainer=FAKES.TRAINER))


def fake_engine(config: SearchConfig, folder: Path) -> LocalEngine:
    """Instant training."""
    return LocalEngine(config, trainer=FAKES.TRAINER)


def instant(jobs: Sequence[Job], workers: int, on_message: Any, pool: object = None) -> None:
    """In the place of run_jobs: each job gets its network as it is initialised, and an accuracy that grows with its size."""
    from safetensors.torch import save

    for job in jobs:
        time.sleep(float(os.environ.get("FAKE_RETRAIN", "0")))
        architecture = Architecture.from_json(job.architecture)
        job.folder.mkdir(parents=True, exist_ok=True)
        weights = save(
            {name: value.contiguous() for name, value in build(architecture, seed=job.seed).state_dict().items()}
        )
        record = {
            "seed": job.seed,
            "validation_accuracy": FAKES.accuracy(architecture, job.recipe["epochs"]) - 0.001 * job.seed,
            "epochs": job.recipe["epochs"],
            "seconds": 0.0,
            "device": "cpu",
            "threads": 1,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "recipe": job.recipe,
        }
        atomic_write(job.file("weights", ".safetensors"), weights)
        write_json(job.file("result", ".json"), record)
        if path := os.environ.get("FAKE_LOG"):
            with open(path, "a") as file:
                file.write(f"retrained {job.hash} {job.seed}\n")
        on_message(job, "done", record)


def run(study: Path, zoo: Path, ladder: Sequence[int] = (), on_event: Any = None, **options: Any) -> Zoo:
    """Build with instant searches and whatever `rounds.run_jobs` is."""
    opened = open_study(study)
    values = {"seeds": 1, "min_candidates": 4, "device": "cpu", "engine": fake_engine, **options}
    try:
        return build_zoo(opened, make_ladder(ladder), to=zoo, on_event=on_event, **values)
    finally:
        opened.close()


if __name__ == "__main__":
    rounds.run_jobs = instant
    given = json.loads(sys.argv[3])
    made = run(
        Path(sys.argv[1]), Path(sys.argv[2]), given.pop("ladder"), lambda e: print(e.message, flush=True), **given
    )
    sys.exit(1 if made.failed else 0)
