"""What a study's page says, gathered from the study as plain data: counts, candidates, front, importances, retraining. Floor 7.

page.py lays these facts out and never looks at the study itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..search.retrained import read_agreement, read_finalists
from ..search.start import START
from ..spec import Architecture

if TYPE_CHECKING:
    import optuna

    from ..search import Candidate, Study

_FEWEST_FOR_IMPORTANCES = 8
_ENOUGH_FOR_IMPORTANCES = 50
_MOST_CANDIDATES = 1500  # on the page; the best ones
_MOST_CURVES = 150
#: Words of igcsearch.search.settle, and what the page calls them.
_REASONS = (
    (" params > ", "too many parameters"),
    (" macs > ", "too many MACs"),
    (" ms > ", "too slow"),
    ("same network", "seen before"),
)


@dataclass(frozen=True)
class Facts:
    """Everything on a study's page."""

    title: str
    space: str
    settings: dict[str, str]
    counts: dict[str, int]
    acceptance: float | None
    seconds: float
    cost: str  # params or macs: what the front is drawn against first
    objectives: tuple[str, ...]
    rows: list[dict[str, Any]]  # trained and failed candidates, as the page's script reads them
    left_out: int
    front: list[int]
    best_so_far: list[list[float]]  # [candidates trained, best validation accuracy of a complete one]
    importances: list[tuple[str, float]]
    importances_note: str
    reasons: dict[str, int]  # why proposals were settled
    best: dict[str, Any] | None
    architecture: Architecture | None
    limits: dict[str, float] = field(default_factory=dict)  # the budget by params, macs, latency
    latency: str = "latency"  # what the latencies on the page are
    finalists: dict[str, Any] | None = None
    agreement: dict[str, Any] | None = None
    learned: dict[str, Any] | None = None  # how shuffles were learned, of the best candidate that has such
    learned_by: dict[str, Any] | None = None  # that candidate: id, epochs, curve, architecture


def collect(study: Study, folder: Path | None = None) -> Facts:
    """The facts of a study; `folder` is where publish/ lies (None: no retraining is shown)."""
    candidates = list(study.candidates())
    trained = [c for c in candidates if c.state in ("complete", "stopped")]
    shown = sorted((c for c in candidates if c.state != "settled"), key=_rank)[:_MOST_CANDIDATES]
    front = [c.id for c in study.front()]
    best = study.best()
    counts = {
        state: sum(c.state == state for c in candidates)
        for state in ("complete", "stopped", "settled", "failed", "running")
    }
    proposals = sum(counts.values())
    importances, note = _importances(study.optuna, {c.id for c in trained if c.state == "complete"})
    config = study.config
    with_curve = {c.id for c in sorted(trained, key=_rank)[:_MOST_CURVES]}
    return Facts(
        title=f"Networks for {Path(config.data.name).name}",
        space=Path(config.space).name,
        settings=_settings(config, candidates)
        | ({} if study.latency is None else {"Latency": study.latency.words})
        | _began(study.optuna.user_attrs.get(START)),
        counts=counts,
        acceptance=(proposals - counts["settled"]) / proposals if proposals else None,
        seconds=sum(c.seconds for c in trained),
        cost="macs"
        if "macs" in config.objectives or (config.budget.params is None and config.budget.macs)
        else "params",
        objectives=tuple(config.objectives),
        rows=[_row(c, c.id in with_curve, c.id in front) for c in shown],
        left_out=sum(c.state != "settled" for c in candidates) - len(shown),
        front=front,
        best_so_far=_best_so_far(trained),
        importances=importances,
        importances_note=note,
        reasons=_reasons(candidates),
        best=None if best is None else _row(best, True, True),
        architecture=None if best is None else best.architecture,
        limits=_limits(config.budget),
        latency="latency" if study.latency is None else "predicted latency",
        finalists=None if folder is None else read_finalists(folder),
        agreement=None if folder is None else read_agreement(folder),
        **_learned(trained),
    )


def _began(start: Mapping[str, Any] | None) -> dict[str, str]:
    """The network that the study began from, in words; nothing where it began from none."""
    if start is None:
        return {}
    return {"Begins from": f"{Path(start['entry']).name}, {start['params']:,} parameters, {start['macs']:,} MACs"}


def _learned(trained: Sequence[Candidate]) -> dict[str, Any]:
    able = [c for c in trained if c.state == "complete" and c.learned is not None]
    if not able:
        return {}
    best = min(able, key=_rank)
    by = {"id": best.id, "epochs": best.epochs, "curve": best.curve, "architecture": best.architecture}
    return {"learned": dict(best.learned or {}), "learned_by": by}


def _rank(candidate: Candidate) -> tuple[bool, float, int]:
    return (candidate.state != "complete", -(candidate.accuracy or 0.0), candidate.id)


def _row(c: Candidate, curve: bool, front: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": c.id,
        "state": c.state,
        "family": c.family,
        "params": c.params,
        "macs": c.macs,
        "latency": c.latency_ms,
        "accuracy": _number(c.accuracy),
        "epochs": c.epochs,
        "seconds": round(c.seconds, 1),
        "hash": c.hash,
        "front": front,
    }
    if c.reason:
        row["reason"] = c.reason[:300]
    if curve:
        row["curve"] = [_number(point.get("validation_accuracy")) for point in c.curve]
    return row


def _number(value: Any) -> float | None:
    """A finite number of at most six digits after the point, else None: JSON has no nan."""
    if value is None or value != value or abs(value) == float("inf"):
        return None
    return round(float(value), 6)


def _best_so_far(trained: Sequence[Candidate]) -> list[list[float]]:
    best, points = 0.0, []
    for number, candidate in enumerate(sorted(trained, key=lambda c: c.id), 1):
        if candidate.state == "complete" and (candidate.accuracy or 0.0) > best:
            best = candidate.accuracy or 0.0
            points.append([number, round(best, 6), candidate.id])
    return points


def _limits(budget: Any) -> dict[str, float]:
    limits = {"params": budget.params, "macs": budget.macs, "latency": budget.latency_ms}
    return {name: value for name, value in limits.items() if value is not None}


def _reasons(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Settled proposals by what was wrong with them; the first of several counts."""
    found: dict[str, int] = {}
    for candidate in candidates:
        if candidate.state == "settled":
            label = next((label for words, label in _REASONS if words in candidate.reason), "not admissible")
            found[label] = found.get(label, 0) + 1
    return found


def _settings(config: Any, candidates: Sequence[Candidate]) -> dict[str, str]:
    """What was asked for, in words."""
    data = config.data
    limits = [
        f"{value:,} {name}" if isinstance(value, int) else f"{value:g} {name}"
        for value, name in (
            (config.budget.params, "parameters"),
            (config.budget.macs, "MACs"),
            (config.budget.latency_ms, "ms"),
        )
        if value is not None
    ]
    one = next((c for c in candidates if c.state == "complete"), None)
    size = None if one is None else one.image_size
    images = data.train_images or (one.train_images if one else None)
    recipe = config.recipe
    epochs = recipe.epochs if recipe is not None else config.epochs
    found = {
        "Space": config.space,
        "Data": Path(data.name).name,
        "Training images": f"{images:,}" if images else "all",
        "Image size": f"{size or data.image_size} px" if size or data.image_size else "",
        "Budget": ", ".join(limits) or "none",
        "Objective": " against ".join(config.objectives),
        "Sampler": config.sampler,
        "Early stopping": config.stopping,
        "Epochs": str(epochs) if epochs else "",
        "Trials": str(config.trials),
        "Seed": str(config.seed),
        "Workers": str(config.workers),
        "Device": ", ".join(sorted({c.device for c in candidates if c.device})),
    }
    if recipe is not None:
        found["Recipe"] = (
            f"batch {recipe.batch_size}, lr {recipe.lr:g}, weight decay {recipe.weight_decay:g}, EMA {recipe.ema_decay:g}"
        )
    return {name: value for name, value in found.items() if value}


def _importances(study: optuna.Study, complete: set[int]) -> tuple[list[tuple[str, float]], str]:
    """(parameter, importance) by Optuna's fANOVA over complete candidates, largest first; and a line on what they are.

    Settled proposals carry made-up values for some samplers, so a copy without them is judged. Only parameters that every
    candidate has can be judged; the rest depend on choices that some did not make.
    """
    import optuna

    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number in complete and trial.values]
    if len(trials) < _FEWEST_FOR_IMPORTANCES:
        return [], f"{len(trials)} complete candidates are too few to judge; {_FEWEST_FOR_IMPORTANCES} are needed."
    values = [trial.values[0] for trial in trials]
    if max(values) - min(values) < 1e-12:
        return [], "All complete candidates are equally accurate: no parameter made a difference."
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optuna marks parts of this as experimental
            copy = optuna.create_study(direction="maximize")
            for trial in trials:
                copy.add_trial(
                    optuna.trial.create_trial(
                        value=trial.values[0], params=trial.params, distributions=trial.distributions
                    )
                )
            evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
            found = optuna.importance.get_param_importances(copy, evaluator=evaluator)
    except (ValueError, RuntimeError, ImportError) as error:
        return [], f"Optuna could not judge these candidates ({error})."
    finally:
        optuna.logging.set_verbosity(before)
    listed = sorted(((name, float(value)) for name, value in found.items()), key=lambda item: -item[1])
    note = f"fANOVA over {len(trials)} complete candidates; shares of the variance of validation accuracy."
    if len(trials) < _ENOUGH_FOR_IMPORTANCES:
        note += " So few candidates give a hint, not a finding."
    skipped = len({name for trial in trials for name in trial.params}) - len(listed)
    if skipped:
        note += f" {skipped} parameters that not every candidate has are left out."
    return listed, note if listed else "The candidates share no parameter that varies."
