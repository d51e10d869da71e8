"""`train`: the one training loop, for the CPU, one GPU and several processes; and `time_step`, which estimates its time.

Epoch by epoch: batches -> steps -> validation accuracy of the averaged weights -> checkpoint -> `on_epoch`, which may
stop it.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture
from igcsearch.spec.grouping import learns_groups
from igcsearch.spec.learning import is_learned, reduced
from igcsearch.spec.rounding import check_groups_budget
from igcsearch.training.batches import Batches
from igcsearch.training.callback import Callback
from igcsearch.training.checkpoint import (
    Stored,
    check_learned,
    checkpoint_identity,
    put_tensors,
    read_checkpoint,
    save_checkpoint,
    state_tensors,
)
from igcsearch.training.datasets.images import ImageData
from igcsearch.training.device import repeatable, resolve_device, resolve_precision
from igcsearch.training.evaluation import count_right
from igcsearch.training.recipe import Recipe
from igcsearch.training.shares import Share
from igcsearch.training.step import Stepper

if TYPE_CHECKING:
    from igcsearch.training.distributed import Group

T = TypeVar("T")


@dataclass(frozen=True)
class Epoch:
    """What is reported after each epoch.

    Attributes:
        epoch: from 1.
        train_loss: mean over the epoch's images, as they were trained on.
        validation_accuracy: fraction, of the averaged weights.
        seconds: of this epoch, validation included.
        soft: whether shuffles or group counts were being learned: the network is not yet the one that is trained.
        params, macs: of the network, where it has learned its group counts: it is not the cost that was proposed.
    """

    epoch: int
    train_loss: float
    validation_accuracy: float
    seconds: float
    soft: bool = False
    params: int | None = None
    macs: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the curve: `soft` only where it is so, `params` and `macs` where they are known."""
        return {name: value for name, value in asdict(self).items() if name not in ("soft", "params", "macs") or value}


@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    Attributes:
        architecture: of the network; where shuffles or group counts were learned, with those.
        state_dict: its weights (the moving average, where the recipe has one), float32, on the CPU.
        validation_accuracy: fraction, after the last epoch reported; of one that was stopped while it was soft, with
            those made hard.
        curve: one dict for each epoch: epoch, train_loss, validation_accuracy, seconds.
        epochs: how many were trained.
        seconds: of all epochs, those before an interruption included.
        stopped: whether `on_epoch` ended it before its time.
        device: where, for example cpu or cuda:0.
        recipe: with all that was left to the data and the device filled in.
        threads: of torch.
        resumed_from: epochs that came from the checkpoint.
        learned: of shuffles and group counts: way, soft_epochs, for each gap and block its history (`soft.SoftPhase`), and at the
            switch soft_accuracy and hard_accuracy on the validation split and the largest difference of a logit; None for none.
        notes: what had nothing to learn, and why.
    """

    architecture: Architecture
    state_dict: dict[str, Tensor]
    validation_accuracy: float
    curve: list[dict[str, Any]]
    epochs: int
    seconds: float
    stopped: bool
    device: str
    recipe: Recipe
    threads: int
    resumed_from: int
    learned: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def train(
    architecture: Architecture,
    data: ImageData,
    recipe: Recipe,
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    initial_state: dict[str, Tensor] | None = None,
    group: "Group | None" = None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train a network by a recipe. The same seed, device and thread count give the same numbers, interrupted or not.

    Several processes call it with the same arguments and each its own `group`. Every batch is cut among them; what comes
    out is, to rounding, what one process would make of it. A checkpoint does not know how many there were.

    Args:
        architecture: for images of the data's size, channels and classes. Where there is nothing to learn, shuffles are
            taken as interleaves.
        data: trains on `data.train`, reports accuracy on `data.validation`; `data.test` is not touched.
        recipe: how.
        device: auto (a GPU when there is one), cpu, cuda or cuda:N; with a group, the group says it.
        threads: of torch meanwhile; None leaves them.
        checkpoint: file that holds the state after each epoch. If it is there, training goes on from it. Process 0
            alone reads and writes it.
        on_epoch: called after each epoch (in process 0), once its checkpoint is written; for epochs that are in the
            checkpoint already it is called again, first. False stops the training.
        initial_state: weights to begin with, by `state_dict` names.
        group: which of several processes this is; None: the only one.
        callbacks: what trains along (callback.py); their state is in the checkpoint.

    Raises:
        UsageError: an architecture for other data, a device that is not there, a checkpoint of another training,
            batches that cannot be cut. What process 0 alone comes upon is raised in all.
        TrainingDiverged: a loss that is not finite.
    """
    _check_fit(architecture, data)
    asked, (architecture, notes) = architecture, reduced(architecture)
    _check_learning(asked, architecture, recipe)
    place = resolve_device(device if group is None else group.device)
    recipe = recipe.resolve(data, resolve_precision(recipe.precision, place))
    with (
        nullcontext() if group is None else group.joined(),
        repeatable(place, threads),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
    ):
        stepper = Stepper(architecture, data, recipe, place, initial_state, group, callbacks)
        curve: list[dict[str, Any]] = []
        if checkpoint is not None:
            # The precision that auto stands for may differ where an interrupted training goes on: no part of its
            # identity.
            entries = {name: value for name, value in recipe.to_dict().items() if name != "precision"}
            identity = checkpoint_identity(architecture.hash, entries, data.fingerprint, initial_state, callbacks)
            curve = _resume(Path(checkpoint), stepper, identity)
        if group is not None:
            group.spread_(state_tensors(stepper).values())
        resumed_from = len(curve)

        def told(epoch: dict[str, Any]) -> bool:
            """Whether that was enough."""
            return on_epoch is not None and on_epoch(Epoch(**epoch)) is False

        def conclude(epoch: dict[str, Any]) -> tuple[dict[str, Any], bool]:
            if checkpoint is not None:
                save_checkpoint(Path(checkpoint), stepper, identity, [*curve, epoch])
            return epoch, told(epoch)

        stopped = _lead(group, lambda: any(told(done) for done in curve))
        splits = {"train": data.train, "validation": data.validation}
        with Batches(splits, place, torch.get_num_threads()) as batches:
            while len(curve) < recipe.epochs and not stopped:
                if stepper.soft and len(curve) >= stepper.soft_epochs:
                    _harden(stepper, batches, curve[-1]["validation_accuracy"], len(data.validation))
                epoch = _run_epoch(stepper, batches, len(curve) + 1, len(data.validation)).to_dict()
                epoch, stopped = _lead(group, partial(conclude, epoch))
                curve.append(epoch)
            accuracy = curve[-1]["validation_accuracy"]
            if stepper.soft:  # stopped before its time
                accuracy = _harden(stepper, batches, accuracy, len(data.validation))
        return TrainResult(
            architecture=stepper.architecture,
            state_dict={
                name: tensor.detach()
                .to("cpu", torch.float32 if tensor.is_floating_point() else None, copy=True)
                .contiguous()
                for name, tensor in stepper.evaluated.state_dict().items()
            },
            validation_accuracy=accuracy,
            curve=curve,
            epochs=len(curve),
            seconds=sum(done["seconds"] for done in curve),
            stopped=stopped and len(curve) < recipe.epochs,
            device=str(place),
            recipe=recipe,
            threads=torch.get_num_threads(),
            resumed_from=resumed_from,
            learned=stepper.learned,
            notes=tuple(notes),
        )


def time_step(
    architecture: Architecture,
    data: ImageData,
    recipe: Recipe,
    *,
    device: str | torch.device = "auto",
    threads: int | None = None,
    runs: int = 3,
) -> float:
    """Seconds that one training step takes here: the median of some steps after a first one that does not count."""
    _check_fit(architecture, data)
    place = resolve_device(device)
    recipe = recipe.resolve(data, resolve_precision(recipe.precision, place))
    architecture = reduced(architecture)[0]
    times = []
    with (
        repeatable(place, threads),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        Batches({"train": data.train}, place, torch.get_num_threads()) as batches,
    ):
        stepper = Stepper(architecture, data, recipe, place)
        stepper.network.train()
        step_batches = islice(cycle(batches.training("train", recipe.batch_size, recipe.seed, 1)), runs + 1)
        begin = time.perf_counter()
        for batch in step_batches:
            stepper.step(batch, 1, 0).item()  # waits for the device
            times.append(time.perf_counter() - begin)
            begin = time.perf_counter()
    return statistics.median(times[1:])


def _run_epoch(stepper: Stepper, batches: Batches, epoch: int, validation_images: int) -> Epoch:
    begin = time.perf_counter()
    recipe = stepper.recipe
    loss = stepper.train_epoch(batches.training("train", recipe.batch_size, recipe.seed, epoch, stepper.share), epoch)
    accuracy = _validate(stepper, batches) / validation_images
    grouped = stepper.soft is None and stepper.learned is not None and "groups" in stepper.learned
    cost = stepper.architecture.cost if grouped else (None, None)
    return Epoch(epoch, loss, accuracy, time.perf_counter() - begin, stepper.soft is not None, *cost)


def _validate(stepper: Stepper, batches: Batches) -> int:
    """Validation images that are classified as labelled, over all processes."""
    recipe, share, group = stepper.recipe, stepper.share, stepper.group
    ours = Share(share.rank, share.world_size)
    right = count_right(
        stepper.evaluated, batches, "validation", recipe.eval_batch_size, stepper.normalise, recipe.precision, ours
    )
    return right if group is None else int(group.sum_(torch.tensor(right, device=stepper.device)))


def _harden(stepper: Stepper, batches: Batches, soft_accuracy: float, validation_images: int) -> float:
    """Go on with what was learned, and record what that changed; the accuracy behind it."""
    images = next(batches.in_order("validation", stepper.recipe.eval_batch_size)).images
    before = stepper.logits(images)
    stepper.harden()
    assert stepper.learned is not None
    stepper.learned |= {
        "soft_accuracy": soft_accuracy,
        "hard_accuracy": _validate(stepper, batches) / validation_images,
        "difference": float((stepper.logits(images) - before).abs().max()),
    }
    return float(stepper.learned["hard_accuracy"])


def _resume(path: Path, stepper: Stepper, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """The curve of a checkpoint, if there is one, and its state in the stepper: in process 0 alone, but what the state is
    of, soft or hardened, in all."""
    group, stored = stepper.group, list[Stored]()

    def read() -> tuple[list[dict[str, Any]], dict[str, Any] | None, dict[str, dict[str, Any]]]:
        if not path.exists():
            return [], None, {}
        stored.append(read_checkpoint(path, identity))
        check_learned(path, stepper, stored[0].learned)
        return stored[0].curve, stored[0].learned, stored[0].callbacks

    curve, learned, callbacks = _lead(group, read)
    if curve:
        stepper.restore(learned, len(curve))
        for callback in stepper.callbacks:
            callback.restore(callbacks[callback.name], len(curve))
        _lead(group, lambda: put_tensors(path, stepper, stored[0].tensors))
    return curve


def _lead(group: "Group | None", work: Callable[[], T]) -> T:
    """What `work` gives, done once: in process 0, where there are several."""
    return work() if group is None else group.lead(work)


def _check_learning(asked: Architecture, architecture: Architecture, recipe: Recipe) -> None:
    """Make sure that what a network has to learn can be learned by the recipe.

    Args:
        asked, architecture: as given, and without what has nothing to learn.

    Raises:
        UsageError: no room for both phases, group counts without a budget, or a budget that none of them meets.
    """
    if is_learned(architecture):
        recipe.learning.soft_epochs(recipe.epochs)
    if learns_groups(asked):
        budget = recipe.grouping.budget
        if budget.params is None and budget.macs is None:
            raise UsageError(
                "group counts are learned under a budget, or all branches would end as one; "
                "give --max-params or --max-macs (in a recipe: max_params, max_macs)"
            )
        check_groups_budget(architecture, budget)


def _check_fit(architecture: Architecture, data: ImageData) -> None:
    want = (data.in_channels, data.image_size, data.num_classes)
    have = (architecture.in_channels, architecture.image_size, architecture.num_classes)
    if have != want:
        raise UsageError(
            f"architecture is for {have[0]} channels, {have[1]} pixels, {have[2]} classes; data {data.name} has "
            f"{want[0]}, {want[1]}, {want[2]}; use matching data or another architecture"
        )
