"""`agreement`: does the search rank candidates as full retraining does? Kendall's tau over the whole ranking, stopped ones too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..search.retrained import AGREEMENT, FOLDER, write_json
from ..training import DataSpec
from .choose import spread
from .events import Agreed, Note
from .rounds import OnEvent, Retrained, check_numbers, make_setting, only_one, retrain_all
from .workers import Pool

if TYPE_CHECKING:
    from ..search import Study


def agreement(
    study: Study | str | Path,
    candidates: int = 15,
    seeds: int = 1,
    *,
    epochs: int | None = None,
    device: str = "auto",
    workers: int = 1,
    on_event: OnEvent | None = None,
    data: DataSpec | None = None,
    train_images: int | None = None,
    pool: Pool | None = None,
) -> dict[str, Any]:
    """Retrain candidates spread over the whole ranking, and compare: Kendall's tau of search and retrained accuracy.

    Both are accuracies of the validation split; the test split is not touched. Stored as STUDY/publish/agreement.json
    and returned: {"tau", "p_value", "pairs": [{"id", "hash", "state", "search_epochs", "search_accuracy",
    "retrained_accuracy"}...], "seeds", "epochs", "train_images"}; tau is None where it is not defined (all equal).
    Arguments as of `publish`. Raises UsageError as `publish` does, and for fewer than two candidates.
    """
    from scipy.stats import kendalltau

    check_numbers(candidates=candidates, seeds=seeds)
    setting = make_setting(
        study,
        epochs=epochs,
        data=data,
        train_images=train_images,
        device=device,
        workers=workers,
        on_event=on_event,
        pool=pool,
    )
    with only_one(setting.folder):
        chosen = spread(setting.study, max(2, candidates))
        if len(chosen) < candidates:
            setting.tell(Note(f"{candidates} candidates were asked for, the study has {len(chosen)} trained ones"))
        pairs = [
            {
                "id": result.candidate.id,
                "hash": result.candidate.hash,
                "state": result.candidate.state,
                "search_epochs": result.candidate.epochs,
                "search_accuracy": result.candidate.accuracy,
                "retrained_accuracy": result.mean,
            }
            for result in retrain_all(setting, [Retrained(candidate) for candidate in chosen], seeds)
            if result.mean is not None
        ]
        searched, retrained = ([pair[key] for pair in pairs] for key in ("search_accuracy", "retrained_accuracy"))
        defined = len(set(searched)) > 1 and len(set(retrained)) > 1
        tau, p_value = map(float, kendalltau(searched, retrained)) if defined else (None, None)
        report = {
            "tau": tau,
            "p_value": p_value,
            "pairs": pairs,
            "seeds": seeds,
            "epochs": setting.recipe.epochs,
            "train_images": len(setting.data.train),
        }
        write_json(setting.folder / FOLDER / AGREEMENT, report)
        setting.tell(Agreed(tau, p_value, len(pairs)))
        return report
