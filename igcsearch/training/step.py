"""One training step and all the state that it changes: network, moving average, optimizer.

`loop` runs it, `checkpoint` keeps its state. Where several processes train together (`distributed`), each steps through
its share of a batch; the gradients are averaged on the way, and the state is the same in all of them.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igcsearch.errors import UsageError
from igcsearch.nn import StagedNetwork, build
from igcsearch.nn.learned import is_mask
from igcsearch.spec import Architecture
from igcsearch.spec.learning import hardened, is_learned
from igcsearch.training.augment import Normalise, augment
from igcsearch.training.batches import Batch
from igcsearch.training.callback import Callback
from igcsearch.training.datasets.images import ImageData
from igcsearch.training.device import autocast
from igcsearch.training.recipe import Recipe, steps_per_epoch
from igcsearch.training.shares import Part, Share
from igcsearch.training.soft import Learned, SoftPhase, recorded

if TYPE_CHECKING:
    from igcsearch.training.distributed import Group
    from igcsearch.training.replica import Replica

_LOOK_EVERY = 50  # steps after which the loss is looked at where each look waits: for the GPU, for other processes


class TrainingDiverged(RuntimeError):  # noqa: N818 - the name of an outcome, as StopIteration
    """Training cannot go on, because a loss or a weight is not finite.

    Attributes:
        reason: one line.
        epoch, step: where, both from 1.
    """

    def __init__(self, reason: str, epoch: int = 0, step: int = 0) -> None:
        super().__init__(reason, epoch, step)
        self.reason, self.epoch, self.step = reason, epoch, step

    def __str__(self) -> str:
        return self.reason


class Stepper:
    """A network in training.

    Args:
        architecture: what is built, with weights from `recipe.seed`.
        data: its normalisation and size.
        recipe: resolved for the data and device.
        device: where all of it lies.
        initial_state: weights to begin with instead.
        group: the processes that step together, met already; None: this one alone.
        callbacks: what trains along; not with a network that learns shuffles or group counts.
    """

    def __init__(
        self,
        architecture: Architecture,
        data: ImageData,
        recipe: Recipe,
        device: torch.device,
        initial_state: dict[str, Tensor] | None = None,
        group: "Group | None" = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.callbacks = tuple(callbacks)
        self.recipe, self.device, self.group = recipe, device, group
        self.steps = steps_per_epoch(len(data.train), recipe.batch_size)
        self.share = Share(group.rank, group.world_size, recipe.accumulate) if group else Share(0, 1, recipe.accumulate)
        self.share.check(len(data.train), recipe.batch_size, group is not None and not group.global_statistics)
        self.soft: SoftPhase | None = None
        self.learned: dict[str, Any] | None = None  # the record of what was or is learned
        self.average: nn.Module | None = None
        self._build(architecture, initial_state, initial_state)
        self.normalise = Normalise(data.mean, data.std, device, recipe.channels_last, self._dtype)
        if self.callbacks and self.soft is not None:
            raise UsageError("a network that learns shuffles or group counts trains alone; harden it first")
        for callback in self.callbacks:
            callback.start(self.network, self.average, self.steps)
        self._draws = any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.network.modules())

    def _build(
        self, architecture: Architecture, state: dict[str, Tensor] | None, average: dict[str, Tensor] | None
    ) -> None:
        """Network, moving average and optimizer: with weights from the recipe's seed where no states are given."""
        recipe = self.recipe
        self.architecture = architecture
        network = build(architecture, recipe.seed)
        averaged = build(architecture, recipe.seed) if recipe.ema_decay else None
        self.soft = None
        if is_learned(architecture):
            if state is not None:
                network.load_state_dict(state)
            assert isinstance(network, StagedNetwork)  # graphs have nothing to learn
            assert isinstance(averaged, StagedNetwork | None)
            self.soft = SoftPhase(network, averaged, recipe, self.steps, keep_weights=state is not None)
            self.learned = self.soft.record
            state = average = None
        self.network, self.average = self._place(network), None
        if state is not None:
            self.network.load_state_dict(state)
        if averaged is not None:
            self.average = self._place(averaged)
            self.average.load_state_dict(self.network.state_dict() if average is None else average)
            self.average.requires_grad_(False)
            self._pairs = _float_pairs(self.average, self.network)
        if self.soft is not None:
            self.soft.start()
        self.optimizer = _sgd(self.network, recipe, set() if self.soft is None else self.soft.excluded())
        self._replica = None if self.group is None else _replica(self.network, self.group)

    @torch.no_grad()
    def harden(self, learned: Learned | None = None) -> None:
        """Go on with the network that was learned, or with this one: weights, moving average and momentum stay.

        Args:
            learned: shuffles and group counts; None: as they stand.
        """
        soft = self.soft
        if soft is None:
            return
        learned = soft.learned() if learned is None else learned
        states = [{k: t.detach().cpu() for k, t in net.state_dict().items()} for net in (self.network, self.evaluated)]
        network, average = (soft.harden(state, learned) for state in states)
        momentum = soft.harden(self.momentum_buffers(), learned)
        soft.note(learned)
        self._build(hardened(self.architecture, learned.orders, learned.groups), network, average)
        for name, buffer in self.momentum_buffers().items():
            buffer.copy_(momentum[name])

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average, where there is one."""
        return self.network if self.average is None else self.average

    @property
    def soft_epochs(self) -> int:
        """Epochs after which the network is hardened; 0 where it is hard already."""
        return 0 if self.soft is None else self.soft.epochs

    def restore(self, learned: dict[str, Any] | None, epochs: int) -> None:
        """Become what a checkpoint's record of learning says after so many epochs: still soft, or hard with its orders."""
        if learned is None or self.learned is None:
            return
        self.learned.update(learned)
        if (found := recorded(learned)) is not None:
            self.harden(found)
        elif self.soft is not None:
            self.soft.seek(epochs, self.steps)

    @torch.inference_mode()
    def logits(self, images_NCHW: Tensor) -> Tensor:
        """Of the network that is evaluated, in evaluation mode."""
        self.evaluated.eval()
        with autocast(self.device, self.recipe.precision):
            found: Tensor = self.evaluated(self.normalise(images_NCHW))
        return found

    def momentum_buffers(self) -> dict[str, Tensor]:
        """The optimizer's momentum by parameter name; writing into them changes it."""
        state = self.optimizer.state
        return {n: state[p]["momentum_buffer"] for n, p in self.network.named_parameters() if p in state}

    def train_epoch(self, batches: Iterable[Batch], epoch: int) -> float:
        """All batches of an epoch (from 1) once; the mean loss of its images.

        Raises:
            TrainingDiverged: a loss or weight that is not finite.
        """
        self.network.train()
        every = 1 if self.device.type == "cpu" and self.group is None else _LOOK_EVERY
        losses: list[Tensor] = []
        sizes, looked = [], 0
        for index, batch in enumerate(batches):
            losses.append(self.step(batch, epoch, index))
            sizes.append(batch.whole)
            if (index + 1) % every == 0 or index + 1 == self.steps:
                if self.group is not None:
                    losses[looked:] = self.group.sum_(torch.stack(losses[looked:])).unbind()
                self._check(losses, epoch, looked)
                looked = index + 1
        self._check_weights(epoch, len(losses))
        if self.soft is not None:
            self.soft.end_epoch(epoch, self.steps)
        for callback in self.callbacks:
            callback.after_epoch(epoch)
        if self._replica is not None:
            self._replica.settle(self.average)
        weights = torch.tensor(sizes, dtype=torch.float64)
        return float((torch.stack(losses).cpu().double() * weights).sum() / weights.sum())

    def step(self, batch: Batch, epoch: int, index: int) -> Tensor:
        """One step of SGD on a batch; its mean loss, on the device (of several processes: this one's summand)."""
        recipe, now = self.recipe, (epoch - 1) * self.steps + index
        images = augment(
            batch.images,
            batch.ids,
            seed=recipe.seed,
            epoch=epoch,
            padding=recipe.crop_padding or 0,
            flip=bool(recipe.flip),
        )
        if self._draws:  # dropout takes torch's global generator: key it too
            torch.manual_seed((recipe.seed * 1_000_003 + now) % 2**63)
        self.optimizer.zero_grad(set_to_none=True)
        if self.soft is not None:
            self.soft.before(now)
        for callback in self.callbacks:
            callback.before_forward(now)
        loss = self._backward(images, batch)
        if self.soft is not None:
            self.soft.add_gradients()
        for callback in self.callbacks:
            callback.before_optimizer(now)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(now, self.steps)
        self.optimizer.step()
        if self.soft is not None:
            self.soft.after(now)
        if self.average is not None:
            self._follow(now)
        for callback in self.callbacks:
            callback.after_step(now)
        return loss

    def _backward(self, images_NCHW: Tensor, batch: Batch) -> Tensor:
        """Gradients of the mean loss over the whole batch, micro-batch by micro-batch; the loss."""
        parts = self.share.parts(batch.whole)
        if len(parts) == 1:
            return self._backward_part(images_NCHW, batch.labels, parts[0], batch.whole)
        losses, begin = [], 0
        for part in parts:
            end = begin + part.end - part.begin
            with self._replica.quiet(part is not parts[-1]) if self._replica is not None else nullcontext():
                losses.append(self._backward_part(images_NCHW[begin:end], batch.labels[begin:end], part, batch.whole))
            begin = end
        return torch.stack(losses).sum()

    def _backward_part(self, images_NCHW: Tensor, labels_N: Tensor, part: Part, whole: int) -> Tensor:
        """Add the gradients of these images' losses over `whole`; that sum of losses over `whole`."""
        recipe = self.recipe
        network = self.network if self._replica is None else self._replica.of(part)
        with autocast(self.device, recipe.precision):
            logits = network(self.normalise(images_NCHW))
        logits = logits.to(self._dtype)
        if self._replica is None:
            loss = F.cross_entropy(logits, labels_N, label_smoothing=recipe.label_smoothing)
            for callback in self.callbacks:
                loss = callback.loss(loss, images_NCHW, logits)
            if part.whole != whole:
                loss = loss * (part.whole / whole)
            loss.backward()
            return loss.detach()
        # DistributedDataParallel averages over processes, whose shares differ: each brings its summand, times their number.
        loss = F.cross_entropy(logits, labels_N, label_smoothing=recipe.label_smoothing, reduction="sum") / whole
        for callback in self.callbacks:
            share = len(labels_N) / whole
            loss = callback.loss(loss / share, images_NCHW, logits) * share
        (loss * self.share.world_size).backward()
        return loss.detach()

    @torch.no_grad()
    def _follow(self, now: int) -> None:
        """average = decay * average + (1 - decay) * network, buffers too."""
        (averages, values), others = self._pairs
        torch._foreach_lerp_(averages, values, 1 - self.recipe.ema_at(now))
        for average, value in others:
            average.copy_(value)

    def _place(self, network: nn.Module) -> nn.Module:
        """To the device; on a GPU with weights in channels_last, which its kernels like (the CPU's lay them out anew)."""
        if self.device.type == "cuda" and self.recipe.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network.to(self.device, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        """Of weights and images."""
        return torch.float64 if self.recipe.precision == "float64" else torch.float32

    def _check(self, losses: list[Tensor], epoch: int, begin: int) -> None:
        """Raise for the first loss since the last look (`begin`) that is not finite."""
        for step, loss in enumerate(torch.stack(losses[begin:]).tolist(), begin + 1):
            if not math.isfinite(loss):
                lr = self.recipe.lr_at((epoch - 1) * self.steps + step - 1, self.steps)
                raise TrainingDiverged(
                    f"the loss is {loss} in epoch {epoch}, step {step} of {self.steps} (learning rate {lr:.4g})",
                    epoch,
                    step,
                )

    def _check_weights(self, epoch: int, step: int) -> None:
        norms = torch.stack(torch._foreach_norm([p.detach() for p in self.network.parameters()]))
        if not bool(torch.isfinite(norms).all()):
            raise TrainingDiverged(f"weights are not finite after epoch {epoch}", epoch, step)


def _replica(network: nn.Module, group: "Group") -> "Replica":
    from igcsearch.training.replica import Replica  # torch.distributed is for those who need it

    return Replica(network, group)


def _sgd(network: nn.Module, recipe: Recipe, excluded: set[int]) -> torch.optim.SGD:
    """SGD whose weight decay leaves out norm parameters and biases (all of one dimension), its momentum begun at zero.

    `excluded` are parameters, by `id`, that have an optimizer of their own.
    """
    parameters = [p for p in network.parameters() if p.requires_grad and id(p) not in excluded]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
    )
    if recipe.momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _float_pairs(
    average: nn.Module, network: nn.Module
) -> tuple[tuple[list[Tensor], list[Tensor]], list[tuple[Tensor, Tensor]]]:
    """Tensors that are averaged, and those (counters, permutations, masks) that are copied."""
    stored = average.state_dict()  # buffers that are not stored never change
    ours, theirs = (
        [(name, tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers()) if name in stored]
        for module in (average, network)
    )
    pairs = [
        (a, b, a.is_floating_point() and not is_mask(name)) for (name, a), (_, b) in zip(ours, theirs, strict=True)
    ]
    floats = [(a.detach(), b.detach()) for a, b, averaged in pairs if averaged]
    others = [(a.detach(), b.detach()) for a, b, averaged in pairs if not averaged]
    return ([a for a, _ in floats], [b for _, b in floats]), others
