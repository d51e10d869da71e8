"""`run_search`: one search from its configuration to its study. All that can be checked is checked before anything is trained."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import optuna

from igcsearch.errors import UsageError
from igcsearch.search_spaces import get_space
from igcsearch.training import Recipe

from . import events, storage
from .config import SearchConfig, check_same_question, space_sha256
from .coordinator import CHECKPOINTS, Coordinator, Plan
from .engines import DataFacts
from .engines.local import LocalEngine
from .samplers import population_size, resolve_stopping
from .settle import Space, check_budget
from .study import Study, open_study


def run_search(
    config: SearchConfig,
    out: Path | str,
    *,
    resume: bool = False,
    on_event: Callable[[events.Event], None] = lambda event: None,
    engine: LocalEngine | None = None,
) -> Study:
    """Search until `config.trials` candidates are trained, or until another limit; Ctrl-C and SIGTERM end it cleanly.

    Args:
        config: what to search.
        out: the study's folder.
        resume: go on with the study that the folder holds; candidates that were under way go on from their last epoch. A folder
            without a study starts a new one, so that the same command serves after a crash at any moment.
        on_event: called with each event (see igcsearch.search.events), the last of which is `Ended`.
        engine: for tests.

    Returns:
        The study, as `open_study` gives it.

    Raises:
        UsageError: bad input, before any training and without leaving a trace: a folder that holds a study already (without
            `resume`), one of another question, that cannot be written or is in use; data, space or device that cannot be used; a
            budget that the space cannot meet.
    """
    folder = Path(out)
    _refuse_existing(folder, resume)
    space = get_space(config.space)
    with storage.locked(folder):
        _refuse_existing(folder, resume)  # again: another search may have made it meanwhile
        study = storage.load(folder) if storage.holds_study(folder) else None
        if study is not None:
            stored = storage.stored_config(study, folder)
            check_same_question(stored, config, str(folder))
            _check_same_space(study, config, folder)
            config = replace(config, recipe=stored.recipe)
        engine = engine or LocalEngine(config)
        with _signals(engine), _quiet():
            try:
                _run(config, folder, study, space, engine, on_event)
            except KeyboardInterrupt:  # before the first candidate, or a second Ctrl-C
                if not storage.holds_study(folder):
                    raise
            finally:
                engine.close()
    return open_study(folder)


def _run(
    config: SearchConfig,
    folder: Path,
    study: optuna.Study | None,
    space: Space,
    engine: LocalEngine,
    emit: Callable[[events.Event], None],
) -> None:
    """Data, budget, study, coordinator, engine, in this order."""
    facts = engine.start()
    config = replace(config, recipe=Recipe.from_dict(facts.recipe))
    check_budget(space, facts.problem(config.budget), config.seed)
    resumed = study is not None
    if study is None:
        directions: list[Literal["minimize", "maximize"]] = ["maximize"]
        directions += ["minimize"] * (len(config.objectives) - 1)
        study = storage.create(folder, directions, _attributes(config, facts))
    else:
        _check_same_data(study, facts, folder)
        study.set_user_attr("igcsearch:config", config.to_dict())  # trials, limits and places may be new
    storage.describe(folder)
    with storage.readable(folder):
        plan = Plan(**study.user_attrs["igcsearch:plan"])
    try:
        with storage.writable(folder):  # it makes a dead run's candidates whole
            coordinator = Coordinator(study, config, space=space, facts=facts, plan=plan, folder=folder, emit=emit)
        data = {
            name: value
            for name, value in asdict(facts).items()
            if name not in ("recipe", "device", "threads", "versions")
        }
        counts, requeued = coordinator.counts, coordinator.recovered
        workers = (config.workers, facts.device, facts.threads)
        emit(events.Started(counts, str(folder), resumed, requeued, *workers, plan.stopping, data))
        try:
            with storage.writable(folder):
                engine.run(coordinator)
        except UsageError:
            with suppress(UsageError), storage.writable(folder):
                coordinator.interrupt("interrupted")  # what runs goes on when resumed
            raise
        reason, message = coordinator.ended or ("interrupted", "interrupted; resume to go on")
        emit(events.Ended(coordinator.counts, reason, message))
    finally:
        storage.close(study)
        with suppress(OSError):
            (folder / CHECKPOINTS).rmdir()  # where no candidate is under way


def _attributes(config: SearchConfig, facts: DataFacts) -> dict[str, Any]:
    """What a study says of itself."""
    assert config.recipe is not None
    epochs = config.recipe.epochs
    stopping = resolve_stopping(config.stopping, len(config.objectives), epochs, config.trials, config.sampler)
    versions = {**(facts.versions or {}), "optuna": optuna.__version__}
    return {
        "igcsearch:schema": storage.SCHEMA,
        "igcsearch:config": config.to_dict(),
        "igcsearch:data": {name: value for name, value in asdict(facts).items() if name not in ("recipe", "versions")},
        "igcsearch:plan": asdict(Plan(stopping, population_size(config.trials))),
        "igcsearch:versions": versions,
        "igcsearch:space_sha256": space_sha256(config.space),
    }


def _refuse_existing(folder: Path, resume: bool) -> None:
    if storage.holds_study(folder) and not resume:
        raise UsageError(f"{folder} holds a study already; give --resume to go on with it, or another output folder")


def _check_same_space(study: optuna.Study, config: SearchConfig, folder: Path) -> None:
    """A space of the user's own must be the one that the study began with, to the letter of its file."""
    with storage.readable(folder):
        before = study.user_attrs.get("igcsearch:space_sha256")
    if before is not None and before != space_sha256(config.space):
        raise UsageError(
            f"the file of space {config.space!r} was changed since the study in {folder} began; restore it as it was to "
            "resume, or give another output folder"
        )


def _check_same_data(study: optuna.Study, facts: DataFacts, folder: Path) -> None:
    """The images behind the name must be those that the study began with."""
    with storage.readable(folder):
        before = study.user_attrs["igcsearch:data"]
    for name in ("image_size", "in_channels", "num_classes", "train", "validation", "test", "fingerprint"):
        if before.get(name) != (now := getattr(facts, name)):
            what = f"{name} {before.get(name)}, not {now}"
            raise UsageError(
                f"{folder} was searched on other data ({what}); give its own data, or another output folder"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's own log lines about new studies and trials are not ours to print."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _signals(engine: LocalEngine) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the engine to stop, the second Ctrl-C raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        if engine.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        engine.stop = True

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
