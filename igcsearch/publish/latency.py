"""Finalists measured again as whole networks, where they will run and with nothing else running; those over the budget stay out.

Only in studies that predict latency. Before any retraining: latency does not depend on the weights, and what is too slow need not
be trained. A figure is kept in STUDY/publish/HASH/latency.json, so that the same call again chooses the same finalists; another
device, torch or number of threads measures anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..search.latency import LatencySetting
from ..search.measuring import Meter
from ..search.retrained import FOLDER, read_json, write_json
from .events import Note
from .rounds import Retrained, Setting

if TYPE_CHECKING:
    from ..search import Candidate


def fast_enough(setting: Setting, ranked: Sequence[Candidate], count: int) -> tuple[list[Retrained], list[Retrained]]:
    """The first `count` candidates that are within the study's latency budget, and those before them that are not.

    Without a budget none is left out, and without an objective of latency either, nothing is measured.

    Raises:
        UsageError: the latency device is not on this machine; all are over the budget, with the fastest.
    """
    config = setting.study.config
    if config.latency is None:
        return [Retrained(candidate) for candidate in ranked[:count]], []
    limit = config.budget.latency_ms
    kept: list[Retrained] = []
    slow: list[Retrained] = []
    with Meter(config.latency) as meter:
        for candidate in ranked:
            if len(kept) == count:
                break
            found = _measured(setting.folder, candidate, config.latency, meter)
            if limit is None or found["median_ms"] <= limit:
                kept.append(Retrained(candidate, latency=found))
                continue
            slow.append(Retrained(candidate, latency=found, failures=[_too_slow(found, limit)]))
            setting.tell(Note(f"candidate {candidate.id} ({candidate.hash}) is left out: {slow[-1].failures[0]}"))
    if not kept:
        fastest = min(slow, key=lambda each: (each.latency or {})["median_ms"])
        raise UsageError(
            f"every candidate is too slow as a whole network; the fastest, candidate {fastest.candidate.id}: "
            f"{fastest.failures[0]}; search with a budget that leaves room for the prediction's error"
        )
    return kept, slow


def all_fast_enough(setting: Setting, asked: Sequence[Candidate]) -> list[Retrained]:
    """All of these candidates, measured as `fast_enough` does.

    Raises:
        UsageError: as there; also where one of them is over the budget.
    """
    kept, slow = fast_enough(replace(setting, tell=lambda event: None), asked, len(asked))
    if slow:
        ids = ", ".join(str(each.candidate.id) for each in slow)
        raise UsageError(
            f"candidate {slow[0].candidate.id} is {slow[0].failures[0]}; leave {ids} out of those to publish"
        )
    return kept


def _measured(folder: Path, candidate: Candidate, setting: LatencySetting, meter: Meter) -> dict[str, Any]:
    """What `nn.measure.latency` says of the network, with the prediction beside it; measured once."""
    path = folder / FOLDER / candidate.hash / "latency.json"
    of = {"measured_on": meter.label, "batch": setting.batch}
    stored = read_json(path)
    if stored is None or {name: stored.get(name) for name in of} != of:
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = {**of, "latency": meter.network(candidate.architecture)}
        write_json(path, stored)
    predicted = {} if candidate.latency_ms is None else {"predicted_ms": candidate.latency_ms}
    return {**stored["latency"], **predicted}


def _too_slow(found: dict[str, Any], limit: float) -> str:
    predicted = f", predicted {found['predicted_ms']:.3g} ms" if "predicted_ms" in found else ""
    return f"over the latency budget: measured {found['median_ms']:.3g} ms{predicted}, budget {limit:g} ms"
