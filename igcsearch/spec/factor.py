"""One structured sparse kernel, the unit that every block is a product of, and the permutation behind it. Floor 0.

Steps that are no factor are in steps.py (pooling, norm and activation, squeeze-excitation) and block.py (lanes side by side);
what the products satisfy is in conditions.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..errors import UsageError, near
from . import permutations
from .numbers import truth, whole
from .permutations import Order
from .sparsity import Sparsity, checked_sparsity

ACTIVATIONS = ("relu", "relu6", "silu", "hardswish", "gelu")
SHUFFLES = ("interleave", "identity", "random", "explicit", "learned")


@dataclass(frozen=True)
class Shuffle:
    """The permutation behind a factor.

    Args:
        kind: interleave (transpose of the (C/K, K) table), identity, random (by seed), explicit (by order), or learned: found
            in training, which makes it explicit (learning.py); until then it stands at interleave.
        seed: of a random shuffle; it alone fixes the permutation.
        order: of an explicit shuffle: position i takes channel order[i].

    Raises:
        UsageError: an unknown kind, or a seed or order that is missing or does not belong to the kind.
    """

    kind: str = "interleave"
    seed: int | None = None
    order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in SHUFFLES:
            raise UsageError(
                f"unknown shuffle {self.kind!r}{near(str(self.kind), SHUFFLES)}; kinds: {', '.join(SHUFFLES)}"
            )
        if self.seed is not None:
            object.__setattr__(self, "seed", whole(self.seed, "seed of a shuffle"))
        if self.order is not None:
            order = tuple(whole(channel, "a channel of an explicit order") for channel in self.order)
            object.__setattr__(self, "order", order)
        if (self.kind == "random") != (self.seed is not None):
            raise UsageError(
                f"shuffle {self.kind!r} with seed {self.seed}: a random shuffle has a seed, others have none"
            )
        if (self.kind == "explicit") != (self.order is not None):
            raise UsageError(f"shuffle {self.kind!r}: an explicit shuffle has an order, others have none")
        if self.order is not None and sorted(self.order) != list(range(len(self.order))):
            raise UsageError(
                f"an explicit order of {len(self.order)} channels must hold each of 0..{len(self.order) - 1} once"
            )

    def resolve(self, channels: int, groups: int) -> Order:
        """The permutation of shape (channels,) behind a factor with that many output channels and branches."""
        if self.kind in ("interleave", "learned"):
            return permutations.interleave(channels, groups)
        if self.kind == "identity":
            return permutations.identity(channels)
        if self.seed is not None:
            return permutations.random_order(channels, self.seed)
        assert self.order is not None
        return permutations.explicit(self.order)


_SIZES = ("in_channels", "out_channels", "kernel_size", "groups", "stride", "dilation")


@dataclass(frozen=True)
class Factor:
    """A group convolution and the permutation behind it, then its norm and activation.

    Order of execution: convolution, shuffle, batch norm (if `norm`), activation. Padding is that of "same" at stride 1:
    dilation * (kernel_size // 2).

    Args:
        in_channels, out_channels: C_in and C_out.
        kernel_size: odd side of the square kernel; S = kernel_size**2.
        groups: branches; the branch width K is in_channels / groups.
        stride, dilation, bias: as in `torch.nn.Conv2d`.
        norm: affine batch norm behind the shuffle.
        activation: one of ACTIVATIONS, or None.
        shuffle: the permutation of the output channels.
        sparsity: (N, M): of every M weights across the channels of a branch N stay (sparsity.py); None: all. Which ones is learned.
        sparse_axis: the channels that groups of M run along: "in" or "out".

    Raises:
        UsageError: a number that is not whole, channels that the groups do not divide, an even kernel, an explicit order of another
            length, a sparsity that cannot be.
    """

    in_channels: int
    out_channels: int
    kernel_size: int = 1
    groups: int = 1
    stride: int = 1
    dilation: int = 1
    bias: bool = False
    norm: bool = False
    activation: str | None = None
    shuffle: Shuffle = Shuffle()
    sparsity: tuple[int, int] | None = None
    sparse_axis: str = "in"

    def __post_init__(self) -> None:
        for name in _SIZES:
            if (
                type(value := getattr(self, name)) is not int
            ):  # numpy's, say: what hashes, texts and caches see is an int
                value = whole(value, f"{name} of a factor")
                object.__setattr__(self, name, value)
            if value < 1 and name != "kernel_size":
                raise UsageError(f"{name} = {value} of a factor must be at least 1")
        for name in ("bias", "norm"):
            if type(flag := getattr(self, name)) is not bool:
                object.__setattr__(self, name, truth(flag, f"{name} of a factor"))
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise UsageError(
                f"{self.groups} groups do not divide {self.in_channels} -> {self.out_channels} channels; "
                f"use a common divisor of both"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UsageError(f"kernel size {self.kernel_size} of a factor must be odd")
        check_activation(self.activation)
        if self.sparsity is not None or self.sparse_axis != "in":
            object.__setattr__(self, "sparsity", checked_sparsity(self.sparsity, self.sparse_axis)[0])
        order = self.shuffle.order
        if order is not None and len(order) != self.out_channels:
            raise UsageError(
                f"an explicit order of {len(order)} channels stands behind a factor of {self.out_channels}"
            )

    def __hash__(self) -> int:
        """Of all fields, computed once: factors are the keys under which blocks find what is known of their parts."""
        found: int | None = self.__dict__.get("_hash")
        if found is None:
            found = hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))
            self.__dict__["_hash"] = found
        return found

    @property
    def branch_width(self) -> int:
        """K: the input channels of one branch."""
        return self.in_channels // self.groups

    @property
    def area(self) -> int:
        """S: the kernel's positions."""
        return self.kernel_size**2

    @property
    def weights(self) -> int:
        """S * K * C_out: the weights of dense branches, the factor's term in the balance condition (`igcv2.md` 1.3)."""
        return self.area * self.branch_width * self.out_channels

    @cached_property
    def nm(self) -> Sparsity | None:
        """Its N:M sparsity."""
        return checked_sparsity(self.sparsity, self.sparse_axis)[1]

    @property
    def kept_weights(self) -> int:
        """The weights that an N:M sparsity leaves: what is trained and stored. All of them where there is none."""
        if self.nm is None:
            return self.weights
        return self.nm.kept_weights(self.in_channels, self.out_channels, self.groups, self.area)

    @property
    def params(self) -> int:
        """Trainable parameters, bias and batch norm included."""
        return self.kept_weights + self.out_channels * (int(self.bias) + 2 * int(self.norm))

    def macs_at(self, out_size: int) -> int:
        """Multiply-adds for an output map of that side, those with weights that a sparsity leaves out included."""
        return self.weights * out_size * out_size

    def nonzero_macs_at(self, out_size: int) -> int:
        """Multiply-adds for an output map of that side, those with weights that a sparsity leaves out not counted."""
        return self.kept_weights * out_size * out_size

    def out_size(self, size: int) -> int:
        """Side of the output map for an input map of side `size`; smaller maps are padded, so it is at least 1."""
        padding = self.dilation * (self.kernel_size // 2)
        return (size + 2 * padding - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1

    @cached_property
    def order(self) -> Order:
        """The permutation behind the factor: output position i takes channel order[i]. Shape (out_channels,)."""
        return self.shuffle.resolve(self.out_channels, self.groups)


def check_activation(name: str | None) -> None:
    """Raise UsageError unless `name` is None or a known activation."""
    if name is not None and name not in ACTIVATIONS:
        raise UsageError(
            f"unknown activation {name!r}{near(str(name), ACTIVATIONS)}; known: {', '.join(ACTIVATIONS)}, or None"
        )
