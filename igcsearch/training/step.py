"""One training step and all the state that it changes: network, moving average, optimizer.

`loop` runs it, `checkpoint` keeps its state.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igcsearch.nn import build
from igcsearch.spec import Architecture
from igcsearch.training.augment import Normalise, augment
from igcsearch.training.batches import Batch
from igcsearch.training.datasets.images import ImageData
from igcsearch.training.device import autocast
from igcsearch.training.recipe import Recipe, steps_per_epoch

_LOOK_EVERY = 50  # steps after which the loss is looked at on a GPU, where each look waits for it


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
    """

    def __init__(
        self,
        architecture: Architecture,
        data: ImageData,
        recipe: Recipe,
        device: torch.device,
        initial_state: dict[str, Tensor] | None = None,
    ) -> None:
        self.recipe, self.device = recipe, device
        self.steps = steps_per_epoch(len(data.train), recipe.batch_size)
        self.network = self._place(build(architecture, recipe.seed))
        if initial_state is not None:
            self.network.load_state_dict(initial_state)
        self.average: nn.Module | None = None
        if recipe.ema_decay:
            self.average = self._place(build(architecture, recipe.seed))
            self.average.load_state_dict(self.network.state_dict())
            self.average.requires_grad_(False)
            self._pairs = _float_pairs(self.average, self.network)
        self.optimizer = _sgd(self.network, recipe)
        self.normalise = Normalise(data.mean, data.std, device, recipe.channels_last)
        self._draws = any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.network.modules())

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average, where there is one."""
        return self.network if self.average is None else self.average

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
        losses, sizes = [], []
        for index, batch in enumerate(batches):
            losses.append(self.step(batch, epoch, index))
            sizes.append(len(batch.labels))
            if self.device.type == "cpu" or (index + 1) % _LOOK_EVERY == 0 or index + 1 == self.steps:
                self._check(losses, epoch, index)
        self._check_weights(epoch, len(losses))
        weights = torch.tensor(sizes, dtype=torch.float64)
        return float((torch.stack(losses).cpu().double() * weights).sum() / weights.sum())

    def step(self, batch: Batch, epoch: int, index: int) -> Tensor:
        """One step of SGD on a batch; the loss, on the device."""
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
        with autocast(self.device, recipe.precision):
            logits = self.network(self.normalise(images))
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(now, self.steps)
        self.optimizer.step()
        if self.average is not None:
            self._follow(now)
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
        return network.to(self.device)

    def _check(self, losses: list[Tensor], epoch: int, index: int) -> None:
        """Raise for the first loss since the last look that is not finite."""
        begin = index if self.device.type == "cpu" else index // _LOOK_EVERY * _LOOK_EVERY
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


def _sgd(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD whose weight decay leaves out norm parameters and biases (all of one dimension), its momentum begun at zero."""
    parameters = [p for p in network.parameters() if p.requires_grad]
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
    """Tensors that are averaged, and those (counters, permutations) that are copied."""
    ours, theirs = ([*module.parameters(), *module.buffers()] for module in (average, network))
    floats = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
    others = [pair for pair in zip(ours, theirs, strict=True) if not pair[0].is_floating_point()]
    return ([a.detach() for a, _ in floats], [b.detach() for _, b in floats]), others
