"""N:M sparsity: of every M weights side by side exactly N stay; what that leaves, and the bytes it takes to store. Floor 0.

A line is the weights at one kernel position along the channels of one branch: along its input channels for one output channel
(axis "in"), or along its output channels for one input channel (axis "out"). It is cut into groups of M, of each of which N stay;
the incomplete last group of r channels keeps ceil(r*N/M).

Stored are the values that stay and, packed bit after bit, which ones they are: for each group the number of its pattern, in
ceil(log2 C(M, N)) bits, where there are at most MOST_PATTERNS of them; else for each value its place in the group, in ceil(log2 M).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import UsageError, near
from .numbers import whole

AXES = ("in", "out")
CODINGS = ("pattern", "index")
MOST_PATTERNS = 65536


@dataclass(frozen=True)
class Sparsity:
    """N of every M weights across channels.

    Args:
        n, m: how many stay, and of how many.
        axis: the channels that a group runs along: "in" or "out".

    Raises:
        UsageError: numbers that are not whole or not 1 <= n <= m, an unknown axis.
    """

    n: int
    m: int
    axis: str = "in"

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            object.__setattr__(self, name, whole(getattr(self, name), f"{name.upper()} of an N:M sparsity"))
        if not 1 <= self.n <= self.m:
            raise UsageError(
                f"sparsity {self.n}:{self.m}: N must be at least 1 and at most M, such as 2:4 (N of every M weights stay)"
            )
        if self.axis not in AXES:
            raise UsageError(f"sparse axis {self.axis!r}{near(str(self.axis), AXES)} is none of {', '.join(AXES)}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" + (" along the outputs" if self.axis == "out" else "")

    def kept_of(self, channels: int) -> int:
        """How many weights of a line of so many channels stay."""
        full, rest = divmod(channels, self.m)
        return full * self.n + -(-rest * self.n // self.m)

    def told(self, channels: int) -> str:
        """What it becomes on a line of so many channels, for people: "2:16 on 8 channels is 1 of 8"."""
        return f"{self.n}:{self.m} on {channels} channels is {self.kept_of(channels)} of {channels}"

    def on(self, channels: int) -> Sparsity:
        """The same on a line of so many channels, with the line for M where M is longer."""
        if self.m <= channels:
            return self
        return Sparsity(self.kept_of(channels), channels, self.axis)

    def line(self, in_channels: int, out_channels: int, groups: int = 1) -> tuple[int, int]:
        """Of a convolution: how many lines there are at one kernel position, and of how many channels each is."""
        if self.axis == "in":
            return out_channels, in_channels // groups
        return in_channels, out_channels // groups

    def kept_weights(self, in_channels: int, out_channels: int, groups: int = 1, area: int = 1) -> int:
        """How many weights of a convolution stay; `area` is the number of its kernel positions."""
        lines, channels = self.line(in_channels, out_channels, groups)
        return lines * area * self.kept_of(channels)

    def coding(self, channels: int) -> str:
        """How lines of so many channels are stored: "pattern" or "index"."""
        own = self.on(channels)
        return "pattern" if math.comb(own.m, own.n) <= MOST_PATTERNS else "index"

    def code_bits(self, channels: int, coding: str | None = None) -> int:
        """Bits of one code for lines of so many channels: of a group's pattern, or of one value's place."""
        own = self.on(channels)
        most = math.comb(own.m, own.n) if (coding or self.coding(channels)) == "pattern" else own.m
        return (most - 1).bit_length()

    def codes_of(self, channels: int, coding: str | None = None) -> int:
        """How many codes one line of so many channels has."""
        return -(-channels // self.m) if (coding or self.coding(channels)) == "pattern" else self.kept_of(channels)


def storage_bits(
    sparsity: Sparsity,
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int] = (1, 1),
    groups: int = 1,
    *,
    value_bits: int = 32,
    coding: str | None = None,
) -> tuple[int, int]:
    """Bits of a convolution's values, and of their codes before the last byte is filled up; its bias left out.

    Args:
        value_bits: of one value.
        coding: "pattern" or "index"; None: what is stored (`Sparsity.coding`).
    """
    lines, channels = sparsity.line(in_channels, out_channels, groups)
    lines *= math.prod(kernel_size)
    codes = lines * sparsity.codes_of(channels, coding) * sparsity.code_bits(channels, coding)
    return lines * sparsity.kept_of(channels) * value_bits, codes


def storage_bytes(
    sparsity: Sparsity,
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int] = (1, 1),
    groups: int = 1,
    *,
    value_bits: int = 32,
    coding: str | None = None,
) -> int:
    """Bytes of the two tensors that hold a convolution's weights: values, and packed codes. Arguments as of `storage_bits`."""
    values, codes = storage_bits(
        sparsity, in_channels, out_channels, kernel_size, groups, value_bits=value_bits, coding=coding
    )
    return values // 8 + -(-codes // 8)


def checked_sparsity(given: object, axis: str) -> tuple[tuple[int, int] | None, Sparsity | None]:
    """The fields `sparsity` and `sparse_axis` of a factor or convolution: the pair as it is kept, and what it means.

    Raises:
        UsageError: no pair, one that cannot be, or an axis without one.
    """
    if given is None:
        if axis != "in":
            raise UsageError(f"sparse axis {axis!r} without a sparsity; give both, or neither")
        return None, None
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UsageError(f"sparsity {given!r}: two whole numbers are needed, N and M, such as (2, 4)")
    found = Sparsity(given[0], given[1], axis)
    return (found.n, found.m), found
