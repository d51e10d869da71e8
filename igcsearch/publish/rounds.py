"""A round of retrainings: the setting that they share, and running all of them, each at most once in a study's life.

Both `publish` and `agreement` go through here, so a candidate that one has retrained in the same way is reused by the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..errors import UsageError
from ..machine import available_cores
from ..search.retrained import FOLDER
from ..search.start import StartRef, study_start
from ..training import DataSpec, default_recipe, load_data, resolve_device
from .events import EpochDone, Event, Note, Planned, SeedDone, SeedFailed
from .facts import mean_and_std
from .retrain import Job, finished, make_job
from .workers import Pool, run_jobs

if TYPE_CHECKING:
    from ..search import Candidate, Study
    from ..training import ImageData, Recipe

OnEvent = Callable[[Event], object]


@dataclass(frozen=True)
class Setting:
    """What all retrainings of a round share."""

    folder: Path  # of the study
    study: Study
    spec: DataSpec
    data: ImageData
    recipe: Recipe  # its seed is replaced, seed by seed
    device: str  # of this machine
    workers: int
    threads: int  # of each worker
    tell: OnEvent
    pool: Pool | None = None  # None: processes of this machine
    relearn: bool = False  # learned shuffles are learned anew by every retraining
    start: StartRef | None = None  # whose weights all begin with
    asked: str | None = None  # the device of retrainings on ray, whose nodes decide what it stands for; None: `device`

    @property
    def searched(self) -> dict[str, str]:
        """What the study searched, for the record: the space, and the network that it began from."""
        config = self.study.config
        began = {} if config.init_from is None else {"init_from": Path(config.init_from).name}
        return {"space": config.space, **began}

    @property
    def place(self) -> str:
        """The device of the retrainings."""
        return self.asked or self.device


@dataclass
class Retrained:
    """One candidate with its finished retrainings, in the order of the seeds, and why others failed.

    `latency` is that of the whole network, where it was measured.
    """

    candidate: Candidate
    jobs: list[Job] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    latency: Mapping[str, Any] | None = None

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracies, seed by seed."""
        return [float(record["validation_accuracy"]) for record in self.records]

    @property
    def mean(self) -> float | None:
        """Mean validation accuracy; None unless every seed was trained."""
        return None if self.failures else mean_and_std(self.accuracies)[0]


def make_setting(
    study: Study | str | Path,
    *,
    epochs: int | None,
    data: DataSpec | None,
    train_images: int | None,
    device: str,
    workers: int,
    on_event: OnEvent | None,
    pool: Pool | None = None,
    relearn: bool = False,
) -> Setting:
    """Open the study and load its images: the whole training split unless `train_images` asks for fewer.

    Raises UsageError for numbers below 1, what is no study, a study or data that cannot be read, a device that is not there.
    """
    check_numbers(epochs=epochs, workers=workers, train_images=train_images)
    if isinstance(study, str | Path):
        from ..search import open_study

        study = open_study(study)
    if not hasattr(study, "comparable"):
        raise UsageError(
            f"a {type(study).__name__} is no study; give one of igcsearch.open_study, or its folder (a network alone becomes an "
            "entry by igcsearch.entries.write_entry)"
        )
    config = study.config
    asked = device if pool is not None and pool.engine == "ray" else None
    if asked is not None and asked.partition(":")[0] == "cuda":
        device = "auto"  # this machine needs no GPU
    place = str(resolve_device(device))
    spec = replace(data or config.data, train_images=train_images)
    images, start = load_data(spec), study_start(study)
    if start is not None:
        images = start.read().images(images)
    recipe = config.recipe or default_recipe(images, **config.given)
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    threads = max(1, available_cores() // workers)
    tell = on_event or (lambda event: None)
    return Setting(
        *(Path(study.path), study, spec, images, recipe, place, workers, threads, tell, pool),
        asked=asked,
        relearn=relearn,
        start=start,
    )


def retrain_all(setting: Setting, results: Sequence[Retrained], seeds: int) -> list[Retrained]:
    """Retrain every candidate with the seeds 0 to `seeds` - 1, those that were finished before excepted; fills `results`."""
    check_numbers(seeds=seeds)
    for result in results:
        for seed in range(seeds):
            recipe = replace(setting.recipe, seed=seed)
            parts = (setting.folder, result.candidate, setting.spec, setting.data, recipe)
            relearn = setting.study.config.budget if setting.relearn and result.candidate.learned is not None else None
            result.jobs.append(make_job(*parts, setting.place, setting.threads, relearn=relearn, start=setting.start))
    jobs = [job for result in results for job in result.jobs]
    records = {job: record for job in jobs if (record := finished(job)) is not None}
    waiting = [job for job in jobs if job not in records]
    setting.tell(
        Planned(
            len(results),
            seeds,
            setting.recipe.epochs,
            len(setting.data.train),
            len(jobs),
            len(records),
            min(setting.workers, max(1, len(waiting))),
            setting.threads,
            setting.place,
        )
    )
    for job, record in records.items():
        setting.tell(_done(job, record, reused=True))
    failures: dict[Job, str] = {}

    def on_message(job: Job, kind: str, values: dict[str, Any]) -> None:
        if kind == "epoch":
            setting.tell(EpochDone(job.id, job.hash, job.seed, **values))
        elif kind == "note":
            setting.tell(Note(f"candidate {job.id} seed {job.seed}: {values['text']}"))
        elif kind == "done":
            records[job] = values
            setting.tell(_done(job, values, reused=False))
        else:
            failures[job] = str(values["reason"])
            setting.tell(SeedFailed(job.id, job.hash, job.seed, failures[job]))

    run_jobs(waiting, setting.workers, on_message, setting.pool)
    for result in results:
        result.records = [records[job] for job in result.jobs if job in records]
        result.failures = [f"seed {job.seed}: {failures[job]}" for job in result.jobs if job in failures]
    return list(results)


def only_one(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock on a study's retrainings. Raises UsageError when another process retrains, or nothing can be written."""
    return lock_held(folder / FOLDER, f"'{folder}' is being published by another process")


@contextmanager
def lock_held(place: Path, taken: str) -> Iterator[None]:
    """Make the folder `place` and hold its lock, which dies with this process.

    Raises UsageError: `taken`, where another process holds it; a place that cannot be written.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UsageError(f"{taken}; wait for it to end") from None
    except OSError as error:
        raise UsageError(f"'{place}' cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def check_numbers(**values: int | None) -> None:
    """Raise UsageError for a number that is given and is no whole number of at least 1."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UsageError(f"{name} {value!r}: a whole number of at least 1 is needed")


def _done(job: Job, record: dict[str, Any], *, reused: bool) -> SeedDone:
    return SeedDone(job.id, job.hash, job.seed, float(record["validation_accuracy"]), float(record["seconds"]), reused)
