"""`build_zoo`: a zoo along a ladder of budgets, from one study. The `igcsearch zoo build` command.

For each rung (rungs.py), in rising order: its search begins with the candidates that other studies of the ladder have trained
already (igcsearch.search.inherit) and goes on until enough are complete; its best are retrained with several seeds; the winners are
tested once and written as entries. What is finished is on disk after each step, so the same call goes on after a kill -9: the
rungs' studies, the retrainings (shared by all rungs, in the parent's folder), and rung.json in a rung that is complete. A rung that
fails does not end the others. The page of the zoo is igcsearch.report's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entries import Entry, read_folder, user_zoo
from ..entries.entry import CARD, looks_like_entry
from ..errors import UsageError
from ..search.retrained import read_json, write_json
from .events import Note, RungDone, RungFailed, RungSearched, RungStarted
from .rounds import OnEvent, check_numbers, lock_held
from .rung_search import Interrupted, Plan, View, count, rung_config, search_rung
from .rungs import FOLDER, RUNG, Rung, check_against
from .tables import is_generated, write_table
from .winners import publish_rung, unmark
from .zoo import writable_zoo

if TYPE_CHECKING:
    from ..search import SearchConfig, Study
    from ..search.engines import Engine

MIN_CANDIDATES = 10


@dataclass(frozen=True)
class RungResult:
    """What became of a rung: built, kept (complete before), failed, or open (the build was interrupted)."""

    rung: Rung
    state: str
    folder: Path
    complete: int = 0
    inherited: int = 0
    entries: tuple[Entry, ...] = ()
    error: str = ""


@dataclass
class Zoo:
    """What `build_zoo` gives."""

    path: Path
    rungs: list[RungResult] = field(default_factory=list)
    interrupted: bool = False

    @property
    def entries(self) -> list[Entry]:
        """The winners, smallest rung first, each network once."""
        return list({entry.name: entry for rung in self.rungs for entry in rung.entries}.values())

    @property
    def failed(self) -> list[RungResult]:
        """The rungs that were not built."""
        return [rung for rung in self.rungs if rung.state == "failed"]


def build_zoo(
    study: Study,
    rungs: Sequence[Rung],
    *,
    to: str | Path | None = None,
    top: int = 1,
    seeds: int = 3,
    epochs: int | None = None,
    min_candidates: int = MIN_CANDIDATES,
    device: str | None = None,
    running: Mapping[str, Any] | None = None,
    latency: Mapping[str, Any] | None = None,
    storage: str | None = None,
    on_event: OnEvent | None = None,
    view: View = lambda: nullcontext(lambda event: None),
    engine: Callable[[SearchConfig, Path], Engine] | None = None,
) -> Zoo:
    """Build the rungs one after another; what is built already is left as it is.

    Args:
        study: the parent. Its space, data, recipe, objectives, sampler and seed are the rungs' too.
        rungs: of `make_ladder`.
        to: folder of the zoo; None: the user's (IGCSEARCH_ZOO).
        top: entries of each rung.
        seeds: retrainings of each of the 3 * `top` finalists of a rung.
        epochs: of the retrainings; None: as in the study.
        min_candidates: complete candidates that each rung is searched for. Inherited ones count, unless a smaller rung admits
            them too.
        device: None: the study's.
        running: fields of SearchConfig that say what searches and retrainings run on (workers, engine, address ...).
        latency: fields of SearchConfig that say where latency is meant (latency_device ...); None: as in the study.
        storage: URL of the server that holds the study, where it was opened by one.
        on_event: called with the records of events.py.
        view: makes a context for each search, which is called with its events (igcsearch.search.events).
        engine: for tests.

    Raises:
        UsageError: before any training: rungs that do not fit the study, a study without candidates, a zoo that cannot be
            written, another build at work on the study. What goes wrong in one rung is in its result instead.
    """
    check_numbers(top=top, seeds=seeds, epochs=epochs, min_candidates=min_candidates)
    check_against(rungs, study)
    recipe = study.config.recipe
    assert recipe is not None  # a study's is resolved
    place = user_zoo() if to is None else Path(to).expanduser()
    plan = Plan(
        *(
            place,
            top,
            seeds,
            epochs or recipe.epochs,
            min_candidates,
            device or study.config.device,
            running or {},
            storage,
        ),
        on_event or (lambda event: None),
        view,
        engine,
        latency or {},
    )
    rung_config(study, rungs[0], plan, 1)  # a wrong value is said now
    zoo = Zoo(place)
    with writable_zoo(place), lock_held(study.path / FOLDER, f"another build is at work on the zoo of '{study.path}'"):
        for number, rung in enumerate(rungs, 1):
            plan.tell(RungStarted(rung.name, number, len(rungs), rung.words))
            try:
                zoo.rungs.append(_build(study, rungs, rung, plan))
            except UsageError as error:
                zoo.rungs.append(RungResult(rung, "failed", study.path / FOLDER / rung.name, error=str(error)))
                plan.tell(RungFailed(rung.name, str(error)))
            except (Interrupted, KeyboardInterrupt):
                zoo.interrupted = True
                left = rungs[number - 1 :]
                zoo.rungs += [RungResult(each, "open", study.path / FOLDER / each.name) for each in left]
                break
    return zoo


def _build(parent: Study, rungs: Sequence[Rung], rung: Rung, plan: Plan) -> RungResult:
    kept = _kept(parent, rung, plan)
    if kept is not None:
        plan.tell(RungDone(rung.name, tuple(entry.name for entry in kept.entries), True, _also(rung, kept.entries)))
        return kept
    study = search_rung(parent, rungs, rung, plan)
    try:
        found = count(study, rungs[: rungs.index(rung)])
        plan.tell(RungSearched(rung.name, found.complete, found.inherited))
        before = (read_json(study.path / RUNG) or {}).get("entries", [])
        entries = tuple(publish_rung(parent, study, rung, plan))
        unmark(plan.zoo, set(before) - {entry.name for entry in entries}, rung)
    finally:
        study.close()
    if not (plan.zoo / CARD).exists() or is_generated(plan.zoo / CARD):
        try:
            write_table(plan.zoo)
        except UsageError as error:  # an older entry is broken: what was published now is whole all the same
            plan.tell(Note(f"the zoo's table was not written: {error}"))
    result = RungResult(rung, "built", study.path, found.complete, found.inherited, entries)
    names = [entry.name for entry in entries]
    record = {"rung": rung.name, "limits": rung.limits, **found._asdict(), "entries": names}
    write_json(study.path / RUNG, record | {"settings": plan.settings()})
    plan.tell(RungDone(rung.name, tuple(names), False, _also(rung, entries)))
    return result


def _kept(parent: Study, rung: Rung, plan: Plan) -> RungResult | None:
    """The rung as an earlier run built it with these settings; None where there is something to do."""
    folder = parent.path / FOLDER / rung.name
    record = read_json(folder / RUNG)
    if record is None or record.get("settings") != plan.settings() or record.get("needed", 0) < plan.least:
        return None
    entries = []
    for name in record.get("entries", []):
        if not looks_like_entry(plan.zoo / name):
            return None
        with suppress(UsageError):
            entry = read_folder(plan.zoo / name)
            if rung.name in (entry.metrics.get("provenance") or {}).get("rungs", {}):
                entries.append(entry)
    if len(entries) != len(record.get("entries", [])) or not entries:
        return None
    return RungResult(rung, "kept", folder, record["complete"], record.get("inherited", 0), tuple(entries))


def _also(rung: Rung, entries: Sequence[Entry]) -> tuple[str, ...]:
    """The entries that won in other rungs too."""
    return tuple(entry.name for entry in entries if set(entry.metrics["provenance"]["rungs"]) - {rung.name})
