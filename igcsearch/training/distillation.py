"""Knowledge distillation: a network learns from a trained one's logits too. Floor 5.

Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531), section 2:
loss = (1 - a) * cross-entropy + a * T^2 * KL(softmax(teacher / T) || softmax(student / T)).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igcsearch.errors import UsageError
from igcsearch.nn.network import module_of
from igcsearch.spec import Architecture
from igcsearch.training.augment import Normalise
from igcsearch.training.callback import Callback
from igcsearch.training.checkpoint import state_digest

TEMPERATURE = 4.0
WEIGHT = 0.5


class Distillation(Callback):
    """The loss is mixed with the distance from a teacher's softened probabilities.

    Args:
        teacher, state: the trained network, for images of the same size and as many classes.
        mean, std: that its images are normalised by, one number a channel.
        temperature: T, above 0.
        weight: a, above 0 and up to 1 (labels are then not looked at).

    Raises:
        UsageError: a temperature or weight outside its range.
    """

    name = "distillation"

    def __init__(
        self,
        teacher: Architecture,
        state: dict[str, Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        *,
        temperature: float = TEMPERATURE,
        weight: float = WEIGHT,
    ) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise UsageError(f"temperature {temperature:g} of a distillation must be above 0; usual are 1 to 10")
        if not 0 < weight <= 1:
            raise UsageError(f"weight {weight:g} of a distillation must be above 0 and at most 1")
        self._architecture, self._state = teacher, state
        self._mean, self._std = tuple(mean), tuple(std)
        self.temperature, self.weight = temperature, weight

    def identity(self) -> Any:
        """The teacher and how much it says."""
        return [
            self._architecture.hash,
            state_digest(self._state),
            [*self._mean],
            [*self._std],
            self.temperature,
            self.weight,
        ]

    @property
    def settings(self) -> dict[str, float]:
        """What a record tells of it."""
        return {"temperature": self.temperature, "weight": self.weight}

    def check(self, student: Architecture) -> None:
        """Raise UsageError unless the teacher can teach such a network."""
        for what, of, theirs in (
            ("classes", self._architecture.num_classes, student.num_classes),
            ("channels", self._architecture.in_channels, student.in_channels),
            ("pixels a side", self._architecture.image_size, student.image_size),
        ):
            if of != theirs:
                raise UsageError(
                    f"the teacher is for {of} {what}, the network for {theirs}; "
                    "use a teacher for the same images and classes"
                )

    def start(self, network: nn.Module, average: nn.Module | None, steps: int) -> None:
        """Put the teacher beside the network."""
        self.check(network.architecture)  # type: ignore[arg-type]
        weights = next(network.parameters())
        teacher = module_of(self._architecture)
        teacher.load_state_dict(self._state)
        teacher.to(weights.device, weights.dtype).eval().requires_grad_(False)
        self._teacher = teacher
        self._normalise = Normalise(self._mean, self._std, weights.device, True, weights.dtype)

    def loss(self, loss: Tensor, images_NCHW: Tensor, logits_NC: Tensor) -> Tensor:
        """`loss` mixed with the teacher's word on these images."""
        with torch.no_grad():
            taught_NC = self._teacher(self._normalise(images_NCHW)) / self.temperature
        distance = F.kl_div(
            F.log_softmax(logits_NC / self.temperature, dim=1),
            F.log_softmax(taught_NC, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * distance
