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
from igcsearch.spec import Problem
from igcsearch.training import Recipe

from . import events
from .checkpoints import FOLDER, Checkpoints
from .config import SearchConfig, check_same_question, question_name, space_sha256
from .coordinator import Coordinator, Plan
from .engines import Engine
from .engines.make import make_engine
from .grid import grid_points
from .inherit import Inheritance
from .jobs import DataFacts
from .latency import TABLE, LatencyTable, stored_table
from .measuring import Progress, check_device, measure_table
from .places import place_at
from .samplers import population_size, resolve_stopping
from .settle import Space, check_budget, check_proposals
from .start import START, check_same_start, read_start
from .storage import SCHEMA, Place, close
from .study import Study


def run_search(
    config: SearchConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    storage: str | None = None,
    study_name: str | None = None,
    on_event: Callable[[events.Event], None] = lambda event: None,
    engine: Engine | None = None,
    inherit: Inheritance | None = None,
    table: LatencyTable | None = None,
) -> Study:
    """Search until `config.trials` candidates are trained, or until another limit; Ctrl-C and SIGTERM end it cleanly.

    Args:
        config: what to search.
        out: the study's folder; with `storage` by default results/studies/NAME.
        resume: go on with the study that the folder holds; candidates that were under way go on from their last epoch. A folder
            without a study starts a new one, so that the same command serves after a crash at any moment.
        storage: URL of a PostgreSQL server, on which several searches may work on one study at once: where the study exists
            already it is joined, `resume` or not.
        study_name: on the server; None: one made of the space and of what is asked, so that the same question is the same study.
        on_event: called with each event (see igcsearch.search.events), the last of which is `Ended`.
        engine: for tests.
        inherit: candidates of other studies to begin with; they count as trained.
        table: to predict latency with, for a new study; None: it is measured where it is needed.

    Returns:
        The study, as `open_study` gives it.

    Raises:
        UsageError: bad input, before any training and without leaving a trace: a folder that holds a study already (without
            `resume`), one of another question, that cannot be written or is in use; data, space or device that cannot be used; a
            budget that the space cannot meet.
    """
    space_of(config)  # an unknown one is said first
    place = place_at(out, storage, study_name or (None if storage is None else question_name(config)))
    _refuse_existing(place, resume)
    with place.held(), _quiet():
        _refuse_existing(place, resume)  # again: another search may have made it meanwhile
        study = place.load() if place.exists() else None
        if study is not None:
            config = _same_question(place, study, config)
            with place.readable():
                table = stored_table(study.user_attrs) or table
        config = replace(config, shuffle=config.shuffle or "interleave", groups=config.groups or "searched")
        space = space_of(config)
        if table is None and config.latency is not None:
            check_device(config.latency)
        engine = engine or make_engine(config, place.folder)
        with _signals(engine):
            try:
                _run(config, place, study, space, engine, on_event, inherit or Inheritance(), table)
            except KeyboardInterrupt:  # before the first candidate, or a second Ctrl-C
                if not place.exists():
                    raise
            finally:
                engine.close()
    return Study(place)


def _run(
    config: SearchConfig,
    place: Place,
    study: optuna.Study | None,
    space: Space,
    engine: Engine,
    emit: Callable[[events.Event], None],
    inherit: Inheritance,
    table: LatencyTable | None,
) -> None:
    """Data, budget, latency table, study, coordinator, engine, in this order."""
    facts = engine.start()
    config = replace(config, recipe=Recipe.from_dict(facts.recipe))
    check_budget(space, facts.problem(config.budget), config.seed)
    if config.sampler == "grid":
        points = grid_points(space, facts.problem(config.budget))  # raises where it is none
        config = replace(config, trials=min(config.trials, len(points)))
    if config.learns:
        replace(config)  # its recipe has room for learning
        kinds = (config.shuffles, config.group_counts)
        check_proposals(space, facts.problem(config.budget), config.seed, *kinds)  # and it asks for what is learned
    if config.latency is not None and table is None:
        table = measured_table(config, facts.problem(config.budget), emit, lambda: engine.stop)
    resumed = study is not None
    if study is None:
        directions: list[Literal["minimize", "maximize"]] = ["maximize"]
        directions += ["minimize"] * (len(config.objectives) - 1)
        study = place.create(directions, _attributes(config, facts, table))
        config = _same_question(place, study, config)  # where another search was faster, the study is that one's
    _check_same_data(place, study, facts)
    if resumed:
        study.set_user_attr("igcsearch:config", config.to_dict())  # trials, limits and places may be new
        if config.init_from is not None:  # it may have been moved
            study.set_user_attr(START, read_start(config.init_from).to_dict())
    place.describe()
    if table is not None and stored_table(study.user_attrs) is None:  # begun by a version that predicted in another way
        study.set_user_attr(TABLE, table.to_dict())
    with place.readable():
        plan = Plan(**study.user_attrs["igcsearch:plan"])
        table = stored_table(study.user_attrs)
    if table is not None:
        emit(events.Predicting(events.Counts(config.trials), table.words))
    named = None if config.checkpoints is None else Path(config.checkpoints) / question_name(config)
    checkpoints = Checkpoints(named or place.folder / FOLDER)
    try:
        with place.writable():  # it makes a dead run's candidates whole
            if inherit.candidates:
                inherit.adopt(study, place, config, space, facts.problem(config.budget), facts)
            coordinator = Coordinator(
                *(study, config),
                space=space,
                facts=facts,
                plan=plan,
                place=place,
                checkpoints=checkpoints,
                table=table,
                emit=emit,
            )
        data = {
            name: value
            for name, value in asdict(facts).items()
            if name not in ("recipe", "device", "threads", "versions")
        }
        if config.init_from is not None and not study.get_trials(deepcopy=False):
            for parameters in read_start(config.init_from).first(config.budget):
                study.enqueue_trial(parameters)
        counts, requeued = coordinator.counts, coordinator.recovered
        workers = (engine.workers, facts.device, facts.threads)
        emit(events.Started(counts, str(place.folder), resumed, requeued, *workers, plan.stopping, data))
        try:
            with place.writable():
                engine.run(coordinator)
        except UsageError:
            with suppress(UsageError), place.writable():
                coordinator.interrupt("interrupted")  # what runs goes on when resumed
            raise
        reason, message = coordinator.ended or ("interrupted", "interrupted; resume to go on")
        emit(events.Ended(coordinator.counts, reason, message))
    finally:
        place.leave()
        close(study)
        checkpoints.tidy()


def space_of(config: SearchConfig) -> Space:
    """The search's space, which proposes what the search leaves open."""
    if config.init_from is not None:
        return read_start(config.init_from).regroup.space
    space = get_space(config.space)
    space = space if config.families is None else space.with_families(config.families)
    return space.limited(config.shuffles, config.group_counts)


def measured_table(
    config: SearchConfig,
    problem: Problem,
    emit: Callable[[events.Event], None],
    stopped: Callable[[], bool] = lambda: False,
) -> LatencyTable:
    """A search's latency table, measured now and in this process: nothing else should run."""
    assert config.latency is not None

    def tell(progress: Progress) -> None:
        place = progress.setting.words
        emit(events.Measuring(events.Counts(config.trials), place, progress.done, progress.of, progress.limit_s))

    return measure_table(
        space_of(config),
        problem,
        config.latency,
        seed=config.seed,
        limit_s=config.latency_measure_s,
        tell=tell,
        stopped=stopped,
    )


def _attributes(config: SearchConfig, facts: DataFacts, table: LatencyTable | None = None) -> dict[str, Any]:
    """What a study says of itself."""
    assert config.recipe is not None
    epochs = config.recipe.epochs
    stopping = resolve_stopping(config.stopping, epochs, config.trials, config.sampler)
    versions = {**(facts.versions or {}), "optuna": optuna.__version__}
    about_run = ("recipe", "versions")
    return {
        "igcsearch:schema": SCHEMA,
        "igcsearch:config": config.to_dict(),
        "igcsearch:data": {name: value for name, value in asdict(facts).items() if name not in about_run},
        "igcsearch:plan": asdict(Plan(stopping, population_size(config.trials))),
        "igcsearch:versions": versions,
        "igcsearch:space_sha256": space_sha256(config.space),
        **({} if table is None else {TABLE: table.to_dict()}),
        **({} if config.init_from is None else {START: read_start(config.init_from).to_dict()}),
    }


def _refuse_existing(place: Place, resume: bool) -> None:
    if not place.shared and not resume and place.exists():
        raise UsageError(
            f"{place.folder} holds a study already; give --resume to go on with it, or another output folder"
        )


def _same_question(place: Place, study: optuna.Study, config: SearchConfig) -> SearchConfig:
    """The configuration with the study's own recipe; UsageError where the study is of another question."""
    stored = place.stored_config(study)
    config = replace(
        config,
        shuffle=config.shuffle or stored.shuffle,
        groups=config.groups or stored.groups,
        families=config.families or stored.families,
    )
    where = place.label if place.shared else str(place.folder)
    check_same_question(stored, config, where)
    with place.readable():
        before, start = (study.user_attrs.get(name) for name in ("igcsearch:space_sha256", START))
    if start is not None and config.init_from is not None:
        check_same_start(start, read_start(config.init_from), where)
    if before is not None and before != space_sha256(
        config.space
    ):  # the user's own is the same to the letter of its file
        raise UsageError(
            f"the file of space {config.space!r} was changed since the study in {where} began; restore it as it was to "
            "resume, or give another output folder"
        )
    return replace(config, recipe=stored.recipe)


def _check_same_data(place: Place, study: optuna.Study, facts: DataFacts) -> None:
    """The images behind the name must be those that the study began with."""
    with place.readable():
        before = study.user_attrs["igcsearch:data"]
    for name in ("image_size", "in_channels", "num_classes", "train", "validation", "test", "fingerprint"):
        if before.get(name) != (now := getattr(facts, name)):
            what = f"{name} {before.get(name)}, not {now}"
            where = place.label if place.shared else str(place.folder)
            raise UsageError(
                f"{where} was searched on other data ({what}); give its own data, or another output folder"
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
def _signals(engine: Engine) -> Iterator[None]:
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
