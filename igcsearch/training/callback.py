"""What may train along with a network: it sees every step, may change gradients and weights, and its state is in the checkpoint.

Floor 5. A training that goes on from a checkpoint is to give the same numbers as one that was not interrupted, so a callback draws
on its own state, the step's number and the seed alone, and it does the same in each of several processes.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn


class Callback:
    """Base class: does nothing.

    Steps count from 0 over the whole training, epochs from 1.

    Attributes:
        name: what its part of a checkpoint is called; one of a name in a training.
        record: JSON data, kept in the checkpoint.
    """

    name: ClassVar[str] = ""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}

    def identity(self) -> Any:
        """JSON data: what two trainings have in common where one may go on from the other's checkpoint."""
        return None

    def start(self, network: nn.Module, average: nn.Module | None, steps: int) -> None:
        """Once, when the networks are where they are trained.

        Args:
            network: what is trained.
            average: its moving average, which is evaluated and kept; None where there is none, and `network` is.
            steps: of an epoch.

        Raises:
            UsageError: a network that it cannot train along with.
        """

    def loss(self, loss: Tensor, images_NCHW: Tensor, logits_NC: Tensor) -> Tensor:
        """What is trained on in place of `loss`, the mean over these images; they are augmented, not yet normalised."""
        return loss

    def before_forward(self, now: int) -> None:
        """Before the images of a step."""

    def before_optimizer(self, now: int) -> None:
        """Behind the backward pass: gradients are there."""

    def after_step(self, now: int) -> None:
        """Behind the optimizer and the moving average."""

    def after_epoch(self, epoch: int) -> None:
        """Behind the last step of an epoch, before it is evaluated."""

    def state_tensors(self) -> dict[str, Tensor]:
        """What a step changes beside the network; writing into the tensors changes it."""
        return {}

    def restore(self, record: dict[str, Any], epoch: int) -> None:
        """Become what a checkpoint's record says after that epoch; the tensors are put back afterwards."""
        self.record = record


def identities(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """The identity of each, by its name.

    Raises:
        ValueError: two of one name.
    """
    found = {callback.name: callback.identity() for callback in callbacks}
    if len(found) < len(callbacks):
        raise ValueError("two callbacks of one name in a training")
    return found
