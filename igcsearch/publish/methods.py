"""The ways from a dense network to a cheap one: what each is given, and what it gives to be fine-tuned and published. Floor 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..compress.cci import Sparsified
from ..compress.configuration import Table
from ..compress.criterion import criteria
from ..compress.latency import Clock
from ..compress.permute import Permuted, chosen_layers, permute
from ..compress.sensitivity import measured
from ..compress.source import Source
from ..compress.sparsify import THRESHOLD
from ..errors import UsageError
from ..spec import Budget
from ..spec.graph import GraphArchitecture
from ..training import ImageData, TrainResult
from ..wording import plural
from .cci import cci
from .kept import Kept
from .pruned import falling, pruned
from .sparsified import sparsify
from .tuning import SENSITIVITY, FineTuning, calibration, recalibrated

PENALTY_SHARE = 0.4  # of the epochs, by default, in which structured sparsification trains with its penalty


@dataclass(frozen=True)
class Penalty:
    """Of structured sparsification.

    Args:
        epochs: with the penalty, of those in all; None: PENALTY_SHARE of them.
        threshold: share of its criterion that a layer's level may lose while it trains.
        delta: step of lambda; None: by the length of the training.
    """

    epochs: int | None = None
    threshold: float = THRESHOLD
    delta: float | None = None


@dataclass(frozen=True)
class Lines:
    """Of CCI sparsity: `publish.cci.cci` has the same arguments."""

    n: int | None = None
    m: int = 4
    axis: str = "in"
    way: str = "gradual"
    orders: bool = True


@dataclass(frozen=True)
class Compression:
    """A compression that is asked for.

    Args:
        given: the dense network.
        images: normalised as it wants them; None: nothing can be measured or trained.
        budget: of the result.
        partial: folder that keeps what is done; the same compression goes on from there.
        tuning: how it is trained.
        epochs: in all.
        only, skip: patterns of the layers that may be changed.
        criterion: what a kernel is worth (compress/criterion.py); None: l2, or l1 where the method goes by magnitudes.
        importance: what group counts are chosen by: the share of the criterion that is lost, or the measured rise of the loss.
        gathers: so many layers may have an order of their own for their input; None: all that gain.
        steps: the budget falls in so many, fine-tuned after each.
        recalibrate: take the statistics of batch norms anew behind the pruning.
        clock: where latency is limited.
        limits: JSON data of the limits as they were asked for, by which work that is done already is known again: a share of the
            latency, say, is another number each time it is measured. None: the budget itself.
        penalty, lines: of single methods.
        say: is given a line now and then.
    """

    given: Source
    images: ImageData | None
    budget: Budget
    partial: Path
    tuning: FineTuning
    epochs: int
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    criterion: str | None = None
    importance: str = "lost"
    gathers: int | None = 0
    steps: int = 1
    recalibrate: bool = True
    clock: Clock | None = None
    limits: Any = None
    penalty: Penalty = Penalty()
    lines: Lines = Lines()
    say: Callable[[str], None] = field(default=lambda line: None, compare=False)

    @cached_property
    def layers(self) -> list[str]:
        """The layers that may be given groups."""
        return chosen_layers(self.given.graph, self.only, self.skip)

    def identity(self, criterion: str) -> list[Any]:
        """JSON data: all that group counts depend on beside the network's weights and the way of training."""
        return [criterion, self.importance, self.layers, self.shared_identity]

    @property
    def shared_identity(self) -> list[Any]:
        """JSON data: of that, what all methods have in common."""
        images = None if self.images is None else self.images.fingerprint
        limits = self.budget.to_dict() if self.limits is None else self.limits
        return [self.recalibrate, self.gathers, self.tuning.seed, limits, images]

    def normed(self, found: Permuted) -> Permuted:
        """With statistics of batch norms taken anew, where that is asked for and possible."""
        if self.images is None or not self.recalibrate:
            return found
        return replace(found, state=recalibrated(found.architecture, found.state, calibration(self.images)))

    def measure(self, tables: Sequence[Table], graph: GraphArchitecture, state: Mapping[str, Tensor]) -> list[Table]:
        """The tables with the harm of their options, on calibration images."""
        assert self.images is not None
        batches = calibration(self.images, SENSITIVITY)
        return measured(tables, graph, state, batches, device=self.tuning.device, say=self.say)

    @property
    def measures(self) -> bool:
        """Whether harm is measured."""
        return self.images is not None and self.importance == "sensitivity"


@dataclass(frozen=True)
class Outcome:
    """What a method gives.

    Args:
        found: the network as it is deployed, not trained since it was cut last.
        criterion: that it went by; where single weights are chosen "magnitude" or "taylor".
        epochs: that are left for fine-tuning.
        trained: where the method has trained what it found: that network, and its training.
        trained_before: epochs and seconds of what was trained before.
        steps: for the record, what was done before.
        more: for the record, what this method alone has to tell.
    """

    found: Permuted | Sparsified
    criterion: str
    epochs: int = 0
    trained: tuple[Permuted | Sparsified, TrainResult] | None = None
    trained_before: tuple[int, float] = (0, 0.0)
    steps: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def permutation(asked: Compression) -> Outcome:
    """Group counts and orders of channels by the dense weights, at once or in steps (`permute`).

    Raises:
        UsageError: a budget that no group counts meet.
    """
    criterion = asked.criterion or "l2"

    def prune(graph: GraphArchitecture, state: Mapping[str, Tensor], inside: Budget) -> Permuted:
        images, taylor = asked.images, criterion == "taylor"
        worth = criteria(graph, state, criterion, calibration(images) if images and taylor else ())
        found = permute(
            *(graph, state, {name: worth[name] for name in asked.layers}, inside),
            gathers=asked.gathers,
            seed=asked.tuning.seed,
            clock=asked.clock,
            measure=partial(asked.measure, graph=graph, state=state) if asked.measures else None,
            say=asked.say,
        )
        return asked.normed(found)

    clock = asked.clock
    budgets = falling(asked.given.graph, asked.budget, asked.steps, None if clock is None else clock.dense_ms)
    before_last = [asked.epochs // asked.steps] * (asked.steps - 1)
    found, done = pruned(
        *(asked.given, prune, budgets, before_last, asked.images, asked.partial, asked.tuning),
        how=asked.identity(criterion),
        say=asked.say,
    )
    before = sum(before_last), sum(step.get("seconds", 0.0) for step in done)
    return Outcome(found, criterion, asked.epochs - before[0], trained_before=before, steps=done)


def sparsification(asked: Compression) -> Outcome:
    """Trained with a penalty that empties the blocks between groups, then cut (`sparsify`).

    Raises:
        UsageError: a budget that no levels meet, a threshold outside (0, 1), more epochs with the penalty than there are, or steps.
    """
    at_once(asked.steps, "sparsify")
    criterion, epochs = asked.criterion or "l1", asked.penalty.epochs
    if epochs is None:
        epochs = round(PENALTY_SHARE * asked.epochs)
        if asked.epochs and not epochs:
            asked.say(
                f"{plural(asked.epochs, 'epoch')} in all: none has the penalty, the network is cut as it is; raise --epochs"
            )
    check_penalty(epochs, asked.epochs)
    recipe = None if asked.images is None else asked.tuning.recipe(asked.images, epochs).to_dict()
    how = [*asked.identity(criterion), asdict(asked.penalty), epochs, recipe, asked.tuning.taught]

    def prune(graph: GraphArchitecture, state: Mapping[str, Tensor], inside: Budget) -> Permuted:
        found = sparsify(
            *(graph, state, asked.images, inside, epochs, asked.tuning),
            Kept(asked.partial, "sparsify-checkpoint", how).path,
            layers=asked.layers,
            criterion=criterion,
            threshold=asked.penalty.threshold,
            delta=asked.penalty.delta,
            gathers=asked.gathers,
            seed=asked.tuning.seed,
            clock=asked.clock,
            measure=(lambda tables, state: asked.measure(tables, graph, state)) if asked.measures else None,
            limits=asked.limits,
            say=asked.say,
        )
        return asked.normed(found)

    found, done = pruned(
        *(asked.given, prune, [asked.budget], [], asked.images, asked.partial, asked.tuning),
        how=how,
        say=asked.say,
    )
    record = found.sparsified or {}
    before = epochs, float(record.get("seconds", 0.0))
    more = {"sparsified": found.sparsified}
    return Outcome(found, criterion, asked.epochs - epochs, trained_before=before, steps=done, more=more)


def cross_channel(asked: Compression) -> Outcome:
    """N of every M weights across channels (`cci`); the budget counts those that stay.

    Raises:
        UsageError: N, M or a budget that cannot be, or steps, gathers, a limit on latency or a criterion of whole kernels; N where
            sensitivity is to choose it.
    """
    at_once(asked.steps, "cci")
    if asked.criterion not in (None, "l1", "taylor"):
        raise UsageError(
            f"criterion {asked.criterion} is of whole kernels, and cci chooses single weights: by l1 or taylor"
        )
    if asked.lines.n is not None and asked.importance != "lost":
        raise UsageError(
            f"importance {asked.importance} chooses N for each layer, and it is {asked.lines.n} for all; leave out --n or that"
        )
    selection = "taylor" if asked.criterion == "taylor" else "magnitude"
    if asked.gathers != 0:
        raise UsageError("cci moves channels without gathers; leave --gathers out")
    found = cci(
        *(asked.given, asked.images),
        **asdict(asked.lines),
        budget=asked.budget if asked.budget.to_dict() else None,
        only=asked.only,
        skip=asked.skip,
        selection=selection,
        importance=asked.importance,
        epochs=asked.epochs,
        tuning=asked.tuning,
        partial_folder=asked.partial,
        recalibrate=asked.recalibrate,
        say=asked.say,
    )
    trained = None if found.training is None else (found.made, found.training)
    more = {"lines": asdict(asked.lines), "notes": [*found.made.notes]}
    return Outcome(found.pruned, selection, trained=trained, more=more)


def check_penalty(epochs: int | None, of: int) -> None:
    """Raise UsageError for more epochs with the penalty than there are in all."""
    if epochs is not None and epochs > of:
        raise UsageError(
            f"{epochs} epochs with the penalty are more than the {of} in all; raise --epochs, or lower --penalty-epochs"
        )


def at_once(steps: int, method: str) -> None:
    """Raise UsageError for several steps: the method has none."""
    if steps > 1:
        raise UsageError(f"{method} is not done in steps; leave --steps out, or take --method permute")


#: By the name that the command line has for it.
METHODS: dict[str, Callable[[Compression], Outcome]] = {
    "permute": permutation,
    "sparsify": sparsification,
    "cci": cross_channel,
}
