"""From a network to one with N:M sparsity: layers, N, orders of channels, training with masks, compact storage. Floor 7."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from ..compress.cci import Sparsified, masks_of, sparsified
from ..compress.channels import channels_of, permuted
from ..compress.criterion import gradients
from ..compress.sensitivity import measured
from ..compress.source import Source
from ..compress.sparse_configuration import Measure, cut_lines, sparsities
from ..compress.sparse_masks import SCORES, chosen_lines
from ..compress.sparse_orders import settled_lines, sparse_layers
from ..compress.sparse_training import DECAY, SparseTraining
from ..errors import UsageError, near
from ..spec import Budget
from ..spec.sparsity import Sparsity
from ..training import ImageData, TrainResult
from ..training.callback import Callback
from ..training.checkpoint import state_digest
from ..wording import percent, plural
from .kept import Kept
from .tuning import IMPORTANCES, SENSITIVITY, FineTuning, calibration, fine_tune, recalibrated


@dataclass(frozen=True)
class Cci:
    """What `cci` makes.

    Args:
        pruned: N:M at once, not trained.
        made: as it is deployed, trained where there are epochs.
        training: of `made`; None where there are no epochs.
    """

    pruned: Sparsified
    made: Sparsified
    training: TrainResult | None


@dataclass(frozen=True)
class _Prepared:
    """Before training: dense weights in the order of channels that was found, and what is to become of them."""

    state: dict[str, Tensor]
    slopes: dict[str, Tensor] | None
    names: list[str]
    sparsities: dict[str, Sparsity]
    notes: tuple[str, ...]

    def scores(self) -> dict[str, Tensor]:
        """What each weight is worth."""
        weights = {name: self.state[f"{name}.weight"].abs() for name in self.names}
        if self.slopes is None:
            return weights
        return {name: weight * self.slopes[name] for name, weight in weights.items()}


def cci(
    given: Source,
    images: ImageData | None,
    *,
    m: int,
    n: int | None = None,
    axis: str = "in",
    budget: Budget | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    selection: str = "magnitude",
    importance: str = "lost",
    orders: bool = True,
    way: str = "gradual",
    decay: float = DECAY,
    every: int = 1,
    epochs: int = 0,
    tuning: FineTuning,
    partial_folder: Path,
    recalibrate: bool = True,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Cci:
    """Make a network's convolutions N:M sparse and train it so; interrupted, the same call goes on from the last whole epoch.

    Args:
        given: its convolutions may be dense or have groups.
        images: normalised as the network wants them; None where nothing is trained or measured.
        m, n, axis: N of every M weights along the channels that go in or out. Without N it is chosen for each layer by the budget.
        budget: on parameters and multiply-adds, those with weights that are left out not counted.
        only, skip: patterns of layers, as `chosen_lines` takes them.
        selection: of weights: by magnitude, or taylor, |w dloss/dw|.
        importance: what choosing N minimises: the share of the scores that is lost, or the measured rise of the loss (sensitivity).
        orders: let channels change places, so that more is kept.
        way, decay, every: of training, see `SparseTraining`.
        partial_folder: keeps what is done; to be removed when the entry is written.
        recalibrate: where nothing is trained, take the statistics of batch norms anew from training images.
        callbacks: what else trains along.
        say: is given lines for people.

    Raises:
        UsageError: layers, N, M or a budget that cannot be, or no images where some are needed; training diverged.
    """
    for what, value, known in (("selection", selection, SCORES), ("importance", importance, IMPORTANCES)):
        if value not in known:
            raise UsageError(f"unknown {what} {value!r}{near(value, known)}; known: {', '.join(known)}")
    if images is None and (epochs or selection == "taylor" or importance == "sensitivity"):
        raise UsageError(
            "training, the selection taylor and the importance sensitivity need images; give data, or do without"
        )
    graph = given.graph
    names, lines = chosen_lines(graph, Sparsity(n or 1, m, axis), only, skip)
    for line in lines:
        say(line)
    of_images = None if images is None else images.fingerprint
    limits = None if budget is None else budget.to_dict()
    how = [names, n, m, axis, limits, selection, importance, orders, tuning.seed, of_images]
    kept = Kept(partial_folder, "cci", [graph.hash, state_digest(given.state), how])
    if (found := _read(kept)) is None:
        found = _prepared(given, images, names, lines, m, n, axis, budget, selection, importance, orders, tuning, say)
        _write(kept, found)
    scores, chosen = found.scores(), found.sparsities
    masks = masks_of(graph, scores, chosen)
    configuration = "exact" if n is None else "uniform"
    finished = partial(
        sparsified, graph, scores=scores, sparsities=chosen, configuration=configuration, notes=found.notes
    )
    pruned = finished(found.state, masks=masks)
    if images is not None and recalibrate:
        state = recalibrated(pruned.architecture, pruned.state, calibration(images))
        pruned = replace(pruned, state=state)
    told = f"{pruned.architecture.params:,} parameters, {pruned.nonzero_macs:,} nonzero MACs, {pruned.bytes:,} bytes"
    say(f"{plural(len(chosen), 'layer')} sparse: {told}; {percent(pruned.kept)} of the {selection} kept")
    if images is None or not epochs:
        return Cci(pruned, pruned, None)
    training = SparseTraining(chosen, epochs, way, decay=decay, every=every, slopes=found.slopes)
    checkpoint = partial_folder / f"checkpoint-{pruned.architecture.hash}.safetensors"
    result = fine_tune(graph, found.state, images, epochs, tuning, checkpoint, say, [training, *callbacks])
    return Cci(pruned, finished(result.state_dict, masks=training.masks), result)


def _prepared(
    given: Source,
    images: ImageData | None,
    names: list[str],
    notes: Sequence[str],
    m: int,
    n: int | None,
    axis: str,
    budget: Budget | None,
    selection: str,
    importance: str,
    orders: bool,
    tuning: FineTuning,
    say: Callable[[str], None],
) -> _Prepared:
    graph, state = given.graph, given.state
    slopes = None
    if selection == "taylor" and images is not None:
        slopes = {name: slope.abs() for name, slope in gradients(graph, state, names, calibration(images)).items()}
    found = _Prepared(state, slopes, names, {}, tuple(notes))
    scores = found.scores()
    measure: Measure | None = None
    if importance == "sensitivity" and images is not None and n is None:
        batches = calibration(images, SENSITIVITY)
        cutting = cut_lines(m, axis, scores)
        measure = partial(
            measured, graph=graph, state=state, batches=batches, device=tuning.device, cutting=cutting, say=say
        )
    found = replace(found, sparsities=sparsities(graph, scores, m, n, axis, budget, measure))
    if not orders:
        return found
    channels = channels_of(graph)
    stored = settled_lines(graph, channels, sparse_layers(found.sparsities, scores), seed=tuning.seed, say=say)
    if slopes is not None:
        moved = permuted(graph, {**state, **{f"{name}.weight": slopes[name] for name in names}}, channels, stored)
        slopes = {name: moved[f"{name}.weight"] for name in names}
    return replace(found, state=permuted(graph, state, channels, stored), slopes=slopes)


def _write(kept: Kept, found: _Prepared) -> None:
    tensors = {f"state.{name}": tensor for name, tensor in found.state.items()}
    tensors |= {f"slope.{name}": tensor for name, tensor in (found.slopes or {}).items()}
    chosen = {name: [each.n, each.m, each.axis] for name, each in found.sparsities.items()}
    kept.write(tensors, [found.names, chosen, found.notes])


def _read(kept: Kept) -> _Prepared | None:
    """What was kept of the same call; None where there is nothing."""
    if (read := kept.read()) is None:
        return None
    tensors, facts = read
    parts = {
        what: {name.removeprefix(what): tensor for name, tensor in tensors.items() if name.startswith(what)}
        for what in ("state.", "slope.")
    }
    try:
        names, chosen, notes = facts
        chosen = {name: Sparsity(*numbers) for name, numbers in chosen.items()}
    except (TypeError, ValueError, AttributeError):  # of another version
        return None
    return _Prepared(parts["state."], parts["slope."] or None, names, chosen, tuple(notes))
