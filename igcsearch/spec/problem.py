"""What a network is for: the images' size and channels, the classes, and the budget it must stay inside. Floor 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import UsageError
from .numbers import whole


class Cost(NamedTuple):
    """Closed-form cost: trainable parameters, and multiply-adds of one image (convolutions and linear layers)."""

    params: int
    macs: int


@dataclass(frozen=True)
class Budget:
    """Hard upper limits; None leaves a limit open.

    Args:
        params: trainable parameters.
        macs: multiply-adds of one image, convolutions and linear layers.
        latency_ms: milliseconds; never known in closed form, so `admits` does not look at it.

    Raises:
        UsageError: a limit that is not positive.
    """

    params: int | None = None
    macs: int | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("params", self.params), ("macs", self.macs), ("latency_ms", self.latency_ms)):
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise UsageError(f"budget {name} = {limit} must be positive; leave it out for no limit")

    def admits(self, params: int, macs: int) -> bool:
        """True if a network of that closed-form cost stays inside the limits on parameters and MACs."""
        return (self.params is None or params <= self.params) and (self.macs is None or macs <= self.macs)

    def to_dict(self) -> dict[str, Any]:
        """The limits that are set, as JSON data."""
        limits = {"params": self.params, "macs": self.macs, "latency_ms": self.latency_ms}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Budget:
        """The inverse of `to_dict`."""
        return cls(**data)


@dataclass(frozen=True)
class Problem:
    """Input (in_channels, image_size, image_size), number of classes, and budget.

    Raises:
        UsageError: a size, channel or class count that no network can serve.
    """

    image_size: int
    in_channels: int
    num_classes: int
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        for name in ("image_size", "in_channels", "num_classes"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        if self.image_size < 4:
            raise UsageError(f"image size {self.image_size} is too small; use images of at least 4 pixels a side")
        if self.in_channels < 1:
            raise UsageError(f"{self.in_channels} input channels; a network needs at least 1")
        if self.num_classes < 2:
            raise UsageError(f"{self.num_classes} classes; a classifier needs at least 2")

    def to_dict(self) -> dict[str, Any]:
        """JSON data of the problem."""
        sizes = {"image_size": self.image_size, "in_channels": self.in_channels, "num_classes": self.num_classes}
        return {**sizes, "budget": self.budget.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Problem:
        """The inverse of `to_dict`."""
        return cls(**{**data, "budget": Budget.from_dict(data.get("budget", {}))})
