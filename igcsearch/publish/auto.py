"""The method auto: what each method makes of the network at once, under the same budget, and which is gone on with. Floor 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from ..nn.network import module_of
from ..spec import Architecture
from ..training import ImageData
from ..training.checkpoint import state_digest
from ..wording import percent
from .kept import Kept
from .methods import Compression, Outcome, at_once
from .tuning import CALIBRATION, IMPORTANCES, calibration

Method = Callable[[Compression], Outcome]


@dataclass(frozen=True)
class Way:
    """A method with what is to be compared of it; the name is said and recorded."""

    name: str
    method: str
    importance: str


def ways(asked: Compression, methods: Sequence[str], importances: Sequence[str]) -> list[Way]:
    """What is compared: with images each method by all importances that choose something, else by the lost share alone."""
    found = []
    for method in methods:
        chooses = asked.images is not None and not (method == "cci" and asked.lines.n is not None)
        found += [Way(f"{method}, {each}", method, each) for each in (importances if chooses else IMPORTANCES[:1])]
    return found


def automatic(asked: Compression, methods: Mapping[str, Method], importances: Sequence[str] = IMPORTANCES) -> Outcome:
    """Each method at once, without training; then all of the one whose network does best on calibration images.

    Best is the least mean cross-entropy of `judged`; without images the largest kept share.

    Args:
        methods: by name; those that can meet the budget at all.
        importances: by which each is tried.

    Raises:
        UsageError: none of them meets it; what each said. Or steps, which not every method has.
    """
    at_once(asked.steps, "auto")
    limits, why_not = asked.budget, None
    if not (limits.macs is None and limits.latency_ms is None):
        why_not = (
            "its multiply-adds with zeros are still counted by everyone else, so it meets limits on parameters alone; --method "
            "cci counts those with weights that stay"
        )
    elif asked.images is None:
        why_not = "without images what methods keep is compared, and it keeps single weights, the others whole kernels"
    if "cci" in methods and why_not is not None:
        methods = {name: method for name, method in methods.items() if name != "cci"}
        asked.say(f"auto: cci is not compared: {why_not}")
    if asked.images is None and asked.criterion is None:
        asked = replace(asked, criterion="l2")  # shares of one criterion are compared
    identity: list[Any] = [asked.given.graph.hash, state_digest(asked.given.state), [*methods], [*importances]]
    identity += [
        asked.shared_identity,
        asked.criterion,
        [*asked.only],
        [*asked.skip],
        asdict(asked.penalty),
        asdict(asked.lines),
    ]
    kept = Kept(asked.partial, "auto", identity)
    read = kept.read()
    rows: list[dict[str, Any]] = _compared(asked, methods, importances) if read is None else read[1]
    if read is None:
        kept.write({}, rows)
    best = min(rows, key=lambda row: row["loss"]) if "loss" in rows[0] else max(rows, key=lambda row: row["kept"])
    what = f"least loss, {best['loss']:.4f}," if "loss" in best else f"most kept, {percent(best['kept'])},"
    why = f"{what} of {len(rows)} ways at once under the same budget"
    asked.say(f"auto: {best['way']}: {why}")
    outcome = methods[best["method"]](replace(asked, importance=best["importance"]))
    told = {"chosen": best["way"], "importance": best["importance"], "why": why, "compared": rows}
    return replace(outcome, more={**outcome.more, "auto": told})


def _compared(asked: Compression, methods: Mapping[str, Method], importances: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each way that meets the budget."""
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}  # methods, and why
    for way in ways(asked, [*methods], importances):
        if way.method in failed:
            continue
        trial = replace(asked, importance=way.importance, epochs=0, penalty=replace(asked.penalty, epochs=None))
        try:
            found = methods[way.method](trial).found
        except UsageError as error:
            failed[way.method] = str(error)
            asked.say(f"auto: {way.method} is not compared: {error}")
            continue
        row = {
            "way": way.name,
            "params": found.architecture.params,
            "macs": found.architecture.macs,
            "kept": found.kept,
        }
        said = f"{percent(found.kept)} kept"
        if asked.images is not None:
            row["loss"], row["accuracy"] = judged(found.architecture, found.state, asked.images)
            said += f", loss {row['loss']:.4f}, {percent(row['accuracy'])} right on calibration images"
        asked.say(f"{way.name}: {row['macs']:,} MACs, {said}")
        rows.append({**row, "index": len(rows), "method": way.method, "importance": way.importance})
    if not rows:
        raise UsageError(f"no method can: {'; '.join(f'{method}: {error}' for method, error in failed.items())}")
    return rows


def unseen(images: ImageData) -> list[tuple[Tensor, Tensor]]:
    """Batches of training images behind those that methods calibrate with: about CALIBRATION, or all that are left.

    Where none is left, the last half of what methods have seen.
    """
    batches = calibration(images, 2 * CALIBRATION)
    every = accumulate(len(labels) for _, labels in batches)
    seen = next((number for number, count in enumerate(every, 1) if count >= CALIBRATION), len(batches))
    return batches[seen:] or batches[len(batches) // 2 :]


@torch.inference_mode()
def judged(architecture: Architecture, state: Mapping[str, Tensor], images: ImageData) -> tuple[float, float]:
    """Mean cross-entropy and share right on the `unseen` training images."""
    network = module_of(architecture).eval()
    network.load_state_dict(dict(state))
    loss, right, count = 0.0, 0, 0
    for inputs, labels in unseen(images):
        logits = network(inputs)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right, count = right + int((logits.argmax(1) == labels).sum()), count + len(labels)
    return loss / max(count, 1), right / max(count, 1)
