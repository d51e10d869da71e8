"""The ways from a dense network to a cheap one: what each is given, and what it gives to be fine-tuned and published. Floor 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..compress.criterion import criteria
from ..compress.latency import Clock
from ..compress.permute import Permuted, permute
from ..compress.sensitivity import measured
from ..compress.source import Source
from ..spec import Budget
from ..spec.graph import GraphArchitecture
from ..training import ImageData
from .pruned import falling, pruned
from .tuning import SENSITIVITY, FineTuning, calibration, recalibrated

IMPORTANCES = ("lost", "sensitivity")


@dataclass(frozen=True)
class Setting:
    """A compression that is asked for.

    Args:
        given: the dense network.
        images: normalised as it wants them; None: nothing can be measured or trained.
        budget: of the result.
        layers: that may be changed.
        partial: folder that keeps what is done; the same setting goes on from there.
        tuning: how it is trained.
        epochs: in all.
        criterion: what a kernel is worth (compress/criterion.py).
        importance: what group counts are chosen by: the share of the criterion that is lost, or the measured rise of the loss.
        gathers: so many layers may have an order of their own for their input; None: all that gain.
        steps: the budget falls in so many, fine-tuned after each.
        recalibrate: take the statistics of batch norms anew behind the pruning.
        clock: where latency is limited.
        limits: JSON data of the limits as they were asked for, by which work that is done already is known again: a share of the
            latency, say, is another number each time it is measured.
        say: is given a line now and then.
    """

    given: Source
    images: ImageData | None
    budget: Budget
    layers: Sequence[str]
    partial: Path
    tuning: FineTuning
    epochs: int
    criterion: str = "l2"
    importance: str = "lost"
    gathers: int | None = 0
    steps: int = 1
    recalibrate: bool = True
    clock: Clock | None = None
    limits: Any = None
    say: Callable[[str], None] = field(default=lambda line: None, compare=False)

    @property
    def identity(self) -> list[Any]:
        """JSON data: all that a result depends on beside the network's weights and the way of training."""
        images = None if self.images is None else self.images.fingerprint
        return [
            *(self.criterion, self.importance, self.recalibrate, [*self.layers], self.gathers, self.tuning.seed),
            *(self.limits, images),
        ]

    def normed(self, found: Permuted) -> Permuted:
        """With statistics of batch norms taken anew, where that is asked for and possible."""
        if self.images is None or not self.recalibrate:
            return found
        return replace(found, state=recalibrated(found.architecture, found.state, calibration(self.images)))


@dataclass(frozen=True)
class Outcome:
    """What a method gives.

    Args:
        found: the network as it is deployed, not fine-tuned since it was cut last.
        epochs: that are left for fine-tuning.
        steps: for the record, what was trained before.
        more: for the record, what this method alone has to tell.
    """

    found: Permuted
    epochs: int
    steps: list[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)


def permutation(setting: Setting) -> Outcome:
    """Group counts and orders of channels by the dense weights, at once or in steps (`permute`).

    Raises:
        UsageError: a budget that no group counts meet.
    """

    def prune(graph: GraphArchitecture, state: Mapping[str, Tensor], inside: Budget) -> Permuted:
        images, taylor = setting.images, setting.criterion == "taylor"
        worth = criteria(graph, state, setting.criterion, calibration(images) if images and taylor else ())
        measure = None
        if images and setting.importance == "sensitivity":
            batches = calibration(images, SENSITIVITY)
            device, say = setting.tuning.device, setting.say
            measure = partial(measured, graph=graph, state=state, batches=batches, device=device, say=say)
        chosen = {name: worth[name] for name in setting.layers}
        found = permute(
            *(graph, state, chosen, inside),
            gathers=setting.gathers,
            seed=setting.tuning.seed,
            clock=setting.clock,
            measure=measure,
            say=setting.say,
        )
        return setting.normed(found)

    clock = setting.clock
    budgets = falling(setting.given.graph, setting.budget, setting.steps, None if clock is None else clock.dense_ms)
    before_last = [setting.epochs // setting.steps] * (setting.steps - 1)
    found, done = pruned(
        *(setting.given, prune, budgets, before_last, setting.images, setting.partial, setting.tuning),
        how=setting.identity,
        say=setting.say,
    )
    return Outcome(found, setting.epochs - sum(before_last), done)


#: By the name that the command line has for it.
METHODS: dict[str, Callable[[Setting], Outcome]] = {"permute": permutation}
