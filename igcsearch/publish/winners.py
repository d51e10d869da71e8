"""A rung's winners: its finalists retrained, the best of them tested once and written as entries that name their rungs.

As `publish` (finalists.py), with two differences: the retrainings of all rungs lie in the parent study's folder, so that a network
that is a finalist of two rungs is trained once; and an entry that another rung of the ladder has written already gets this rung's
name too, and stays one entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entries import Entry, read_folder, write_entry
from ..entries.entry import looks_like_entry
from ..errors import UsageError
from ..search.inherit import INHERITED
from .choose import finalists
from .events import EntryWritten, FinalistsChosen
from .facts import mean_and_std
from .finalists import by_accuracy, entry_name_of, finalist_row, store_finalists, write_result
from .latency import fast_enough
from .rounds import Retrained, Setting, make_setting, only_one, retrain_all
from .rung_search import Plan
from .rungs import Rung
from .workers import Pool
from .zoo import refuse_foreign

if TYPE_CHECKING:
    from ..search import Candidate, Study


def publish_rung(parent: Study, study: Study, rung: Rung, plan: Plan) -> list[Entry]:
    """Retrain the best 3 * `top` candidates of a rung's study and write the best `top` of them as entries.

    Args:
        parent: in whose folder the retrainings lie.

    Raises:
        UsageError: an entry of another origin is in the way (before any training), all retrainings failed.
    """
    zoo, tell = plan.zoo, plan.tell
    setting = make_setting(
        study,
        epochs=plan.epochs,
        data=None,
        train_images=None,
        device=plan.device,
        workers=int(plan.running.get("workers", 1)),
        on_event=tell,
    )
    setting = replace(setting, folder=Path(parent.path), pool=_pool(plan.running))
    with only_one(setting.folder):
        kept, slow = fast_enough(setting, finalists(study), 3 * plan.top)
        for result in kept:
            _refuse_foreign(setting, result.candidate, zoo)
        results = sorted([*retrain_all(setting, kept, plan.seeds), *slow], key=by_accuracy)
        chosen = [result for result in results if result.mean is not None][: plan.top]
        if not chosen:
            raise UsageError(f"every finalist failed: {kept[0].failures[0]}")
        rows = [finalist_row(result, result in chosen) for result in results]
        tell(FinalistsChosen(tuple(rows)))
        entries = []
        for result in chosen:
            provenance = _provenance(setting, result, rung, zoo)
            entry, replaced = write_result(setting, result, zoo, provenance)
            row = next(row for row in rows if row["id"] == result.candidate.id)
            row.update(
                entry=entry.name, test_accuracy=entry.metrics["accuracy"], test_std=entry.metrics["accuracy_std"]
            )
            entries.append(entry)
            tell(EntryWritten(entry.name, entry.path, entry.metrics["accuracy"], replaced))
        store_finalists(study.path, setting, rows)
    return entries


def unmark(zoo: Path, names: Iterable[str], rung: Rung) -> None:
    """Take the rung's name out of entries that won it in an earlier run, with other settings. They stay in the zoo."""
    from safetensors.torch import load

    for name in names:
        if not looks_like_entry(zoo / name):
            continue
        entry = read_folder(zoo / name)
        provenance = dict(entry.metrics.get("provenance") or {})
        rungs = {other: limits for other, limits in provenance.get("rungs", {}).items() if other != rung.name}
        metrics = entry.metrics | {"provenance": provenance | {"rungs": rungs}}
        write_entry(entry.path, entry.architecture, load(entry.weights.read_bytes()), metrics, overwrite=True)


def _pool(running: Mapping[str, Any]) -> Pool:
    """Where the retrainings run: where the searches do."""
    names = {"gpus": "gpus_per_candidate", "cpus": "cpus_per_candidate"}
    return Pool(**{field.name: running.get(names.get(field.name, field.name), field.default) for field in fields(Pool)})


def _identity(setting: Setting) -> dict[str, Any]:
    """What all entries of one ladder share."""
    config = setting.study.config
    return {
        "study": setting.folder.resolve().name,
        **setting.searched,
        "sampler": config.sampler,
        "seed": config.seed,
        "objectives": list(config.objectives),
    }


def _refuse_foreign(setting: Setting, candidate: Candidate, zoo: Path) -> None:
    refuse_foreign(
        zoo / entry_name_of(setting, candidate),
        recipe=setting.recipe.resolve(setting.data).to_dict(),
        split=setting.data.split,
        provenance=_identity(setting),
    )


def _provenance(setting: Setting, result: Retrained, rung: Rung, zoo: Path) -> dict[str, Any]:
    """Where a winner comes from; what an entry of this ladder says already stays, with the rung added."""
    study, candidate = setting.study, result.candidate
    found = study.optuna.get_trials(deepcopy=False)[candidate.id].user_attrs.get(INHERITED)
    origin = found or {"study": study.path.resolve().name, "trial": candidate.id}
    provenance = {
        **_identity(setting),
        "rungs": {},
        "found_in": origin["study"],
        "trial": origin["trial"],
        "budget": study.config.budget.to_dict(),
        "search_accuracy": candidate.accuracy,
        "search_epochs": candidate.epochs,
        "validation_accuracy": result.mean,
        "validation_std": mean_and_std(result.accuracies)[1],
        "candidates_ranked": len(finalists(study)),
    }
    folder = zoo / entry_name_of(setting, candidate)
    if looks_like_entry(folder):
        before = read_folder(folder).metrics.get("provenance") or {}
        provenance = {**before, **{name: provenance[name] for name in ("validation_accuracy", "validation_std")}}
    rungs = {**provenance.get("rungs", {}), rung.name: rung.limits}
    ordered = sorted(
        rungs.items(), key=lambda item: tuple(item[1].get(name, 0) for name in ("params", "macs", "latency_ms"))
    )
    return provenance | {"rungs": dict(ordered)}
