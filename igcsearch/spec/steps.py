"""Steps that are no factor: each hands every channel on to its own place, changed or not. Floor 0.

`ChannelStep` is what the rest relies on: channels are neither mixed nor moved, so path counts see an identity, a relabelling of
channels goes through, and no search for conditions has to know one kind from another.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError, near
from .factor import ACTIVATIONS, check_activation
from .numbers import truth, whole

GATES = ("sigmoid", "hardsigmoid")


@dataclass(frozen=True)
class ChannelStep:
    """A step of as many channels out as in, each of which stays in its place; the base of all that is no factor and no lanes.

    Raises:
        UsageError: fewer channels than one, or any number of the step that is not whole.
    """

    channels: int

    def __post_init__(self) -> None:
        for name in ("channels", "kernel_size", "stride", "reduced"):
            if name in self.__dataclass_fields__:
                object.__setattr__(self, name, whole(getattr(self, name), f"{name} of a step"))
        if self.channels < 1:
            raise UsageError(f"channels = {self.channels} of a step must be at least 1")

    @property
    def in_channels(self) -> int:
        """Channels read."""
        return self.channels

    @property
    def out_channels(self) -> int:
        """Channels written: the same."""
        return self.channels

    @property
    def stride(self) -> int:
        """By how much the step shrinks a map."""
        return 1

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return 0

    def macs_at(self, out_size: int) -> int:
        """Multiply-adds of convolutions and linear layers, for an output map of that side."""
        return 0

    def out_size(self, size: int) -> int:
        """Side of the output map for an input map of side `size`."""
        return size


@dataclass(frozen=True)
class Pool(ChannelStep):
    """Max or average pooling over kernel_size x kernel_size with padding (kernel_size - 1) // 2; channels pass alone.

    Raises:
        UsageError: a kind other than max and avg, or a size below 1.
    """

    kind: str = "max"
    kernel_size: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("max", "avg"):
            raise UsageError(f"unknown pooling {self.kind!r}; kinds: max, avg")
        if min(self.kernel_size, self.stride) < 1:
            raise UsageError(f"kernel_size {self.kernel_size} and stride {self.stride} of a pooling must be at least 1")

    def out_size(self, size: int) -> int:
        """Side of the output map for an input map of side `size`."""
        return (size + 2 * ((self.kernel_size - 1) // 2) - self.kernel_size) // self.stride + 1


@dataclass(frozen=True)
class NormAct(ChannelStep):
    """Batch norm and activation without a convolution before them, one of the two at least.

    What stands in front of a convolution (pre-activation, He et al. 2016, arXiv 1603.05027) or behind a join within a product;
    behind a factor its own norm and activation do the same, and at the end of a block the block's activation.

    Args:
        norm: affine batch norm, first.
        activation: one of ACTIVATIONS, or None.

    Raises:
        UsageError: neither norm nor activation, or an unknown activation.
    """

    norm: bool = False
    activation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", truth(self.norm, "norm of a step"))
        check_activation(self.activation)
        if not self.norm and self.activation is None:
            raise UsageError(
                f"a norm_act step on {self.channels} channels without norm and activation does nothing; "
                "give norm=True, an activation, or leave the step out"
            )

    @property
    def params(self) -> int:
        """Scale and shift of the batch norm."""
        return 2 * self.channels * int(self.norm)


@dataclass(frozen=True)
class SqueezeExcitation(ChannelStep):
    """x times gate(W2 act(W1 mean(x) + b1) + b2): each channel scaled by what the means of all say (Hu et al. 2018,
    arXiv 1709.01507).

    Each output channel is its own input channel times a number, so path counts see an identity; that the number depends on
    every channel is not a path of the product. The two layers absorb any relabelling of channels.

    Args:
        reduced: width between the two layers.
        activation: between the two layers, one of ACTIVATIONS.
        gate: one of GATES.

    Raises:
        UsageError: a width below 1, no or an unknown activation, an unknown gate.
    """

    reduced: int
    activation: str = "relu"
    gate: str = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduced < 1:
            raise UsageError(
                f"reduced = {self.reduced} of a squeeze-excitation on {self.channels} channels must be at least 1"
            )
        if self.activation is None:
            raise UsageError(
                f"a squeeze-excitation needs an activation between its two layers; known: {', '.join(ACTIVATIONS)}"
            )
        check_activation(self.activation)
        if self.gate not in GATES:
            raise UsageError(f"unknown gate {self.gate!r}{near(str(self.gate), GATES)}; known: {', '.join(GATES)}")

    @property
    def weights(self) -> int:
        """Of both layers, biases left out."""
        return 2 * self.channels * self.reduced

    @property
    def params(self) -> int:
        """Both layers with their biases."""
        return self.weights + self.reduced + self.channels

    def macs_at(self, out_size: int) -> int:
        """Of both layers, which see one pixel whatever the map."""
        return self.weights
