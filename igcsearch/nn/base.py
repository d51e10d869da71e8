"""What the module of every architecture is; network.py and graph.py have one for each kind. Floor 3."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import UsageError
from ..spec import Architecture

if TYPE_CHECKING:
    from .optimized import OptimizedNetwork
    from .plans import PlanTimes

EXECUTIONS = ("auto", "plain")


class Network(nn.Module, ABC):
    """The module of an architecture. Images (N, in_channels, H, W), float, to logits (N, num_classes).

    Attributes:
        architecture: what it was built of.
        execution: "auto": as fast as training can be, "plain": stock operators, as the specification reads. Same parameters and
            state dict, same results to rounding.
    """

    architecture: Architecture
    execution: str

    def set_execution(self, execution: str) -> Network:
        """Choose "auto" or "plain"; returns the network.

        Raises:
            UsageError: another word.
        """
        if execution not in EXECUTIONS:
            raise UsageError(f"unknown execution {execution!r}; known: {', '.join(EXECUTIONS)}")
        self.execution = execution
        return self

    @abstractmethod
    def remove_classifier(self) -> None:
        """Give from now on what the last linear layer reads, (N, features)."""

    @abstractmethod
    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to what the classifier reads, (N, features)."""

    @abstractmethod
    def optimize_for_inference(
        self, example: Tensor | None = None, *, measure: bool = True, known: PlanTimes | None = None
    ) -> OptimizedNetwork:
        """The same network for inference, as fast as this machine runs it; see `plans.optimize_for_inference`."""
