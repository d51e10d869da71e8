"""A block: an ordered product of steps with a shortcut around it. Floor 0.

A step is a factor (factor.py), one that hands every channel on by itself (steps.py), or several lanes side by side (split /
concat / add). Costs, canonical text and the analysis of conditions.py are computed once per block object: searches share the
objects through the memoised block definitions, which is what lets them settle thousands of architectures a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import UsageError
from .factor import Factor, Shuffle, check_activation
from .numbers import whole
from .permutations import Order
from .problem import Cost
from .steps import ChannelStep


@dataclass(frozen=True)
class Parallel:
    """Lanes side by side: each gets the whole input, or with `split` its own slice; outputs are concatenated or added.

    Args:
        lanes: products of steps; an empty lane passes its input on.
        in_channels: channels read.
        split: widths of the slices, one a lane, or None: every lane reads all channels.
        join: concat or add.
        shuffle: the permutation behind the join; interleave reads a (lanes, C / lanes) table.

    Raises:
        UsageError: lanes that do not fit together (widths, strides), or that an interleave behind them cannot take.
    """

    lanes: tuple[tuple[Step, ...], ...]
    in_channels: int
    split: tuple[int, ...] | None = None
    join: str = "concat"
    shuffle: Shuffle = Shuffle("identity")

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_channels", whole(self.in_channels, "in_channels of lanes"))
        if self.split is not None:
            object.__setattr__(self, "split", tuple(whole(width, "a width of split") for width in self.split))
        if not self.lanes or self.join not in ("concat", "add"):
            raise UsageError(
                f"{len(self.lanes)} lanes joined by {self.join!r}: give at least one lane and concat or add"
            )
        split = self.split
        if split is not None and (len(split) != len(self.lanes) or sum(split) != self.in_channels or min(split) < 1):
            raise UsageError(
                f"split {split} must have one width of at least 1 a lane and sum to {self.in_channels} channels"
            )
        for lane, width in zip(self.lanes, self.lane_widths, strict=True):
            check_chain(lane, width, "lane")
        if len({chain_stride(lane) for lane in self.lanes}) > 1:
            raise UsageError(f"lanes have strides {[chain_stride(lane) for lane in self.lanes]}; they must agree")
        if self.join == "add" and len(set(self.lane_outputs)) > 1:
            raise UsageError(f"lanes of {list(self.lane_outputs)} channels cannot be added; they must agree")
        order = self.shuffle.order
        if order is not None and len(order) != self.out_channels:
            raise UsageError(f"an explicit order of {len(order)} channels stands behind lanes of {self.out_channels}")
        if self.shuffle.kind in ("interleave", "learned") and self.out_channels % len(self.lanes):
            raise UsageError(
                f"{self.shuffle.kind} behind {len(self.lanes)} lanes needs a number of channels that they divide, not "
                f"{self.out_channels} (lanes of {list(self.lane_outputs)}); use lanes of one width, or shuffle identity"
            )

    @property
    def lane_widths(self) -> tuple[int, ...]:
        """Input channels of each lane."""
        return self.split or (self.in_channels,) * len(self.lanes)

    @property
    def lane_outputs(self) -> tuple[int, ...]:
        """Output channels of each lane."""
        return tuple(
            lane[-1].out_channels if lane else width for lane, width in zip(self.lanes, self.lane_widths, strict=True)
        )

    @property
    def out_channels(self) -> int:
        """Channels behind the join."""
        return sum(self.lane_outputs) if self.join == "concat" else self.lane_outputs[0]

    @property
    def stride(self) -> int:
        """By how much the lanes shrink a map."""
        return chain_stride(self.lanes[0])

    @property
    def params(self) -> int:
        """Trainable parameters of all lanes."""
        return sum(map(chain_params, self.lanes))

    @cached_property
    def order(self) -> Order:
        """The permutation behind the join. Shape (out_channels,)."""
        return self.shuffle.resolve(self.out_channels, len(self.lanes))


Step = Factor | ChannelStep | Parallel
_SAME_SIDES = "they must agree: give the poolings odd kernel sizes, or the same ones everywhere"


@dataclass(frozen=True)
class Block:
    """An ordered product of steps, with a shortcut and the activation behind their sum.

    Args:
        steps: what the input runs through, in order.
        shortcut: None for no shortcut, () for the identity, or the steps of a projection; it is added to the product.
        activation: behind the sum (or behind the product where there is no shortcut).
        family: the name of the definition that made it, for tables only.
        learned_groups: True if its group counts are to be learned in training (grouping.py); until then it stands at those that
            its factors have.

    Raises:
        UsageError: steps whose widths do not meet, or a shortcut that does not fit the product.
    """

    steps: tuple[Step, ...]
    shortcut: tuple[Step, ...] | None = None
    activation: str | None = None
    family: str = ""
    learned_groups: bool = False
    _costs: dict[int, tuple[Cost, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.steps:
            raise UsageError("a block needs at least one step")
        check_chain(self.steps, self.in_channels, "block")
        check_activation(self.activation)
        if self.shortcut is not None:
            check_chain(self.shortcut, self.in_channels, "shortcut")
            width = self.shortcut[-1].out_channels if self.shortcut else self.in_channels
            if width != self.out_channels or chain_stride(self.shortcut) != self.stride:
                raise UsageError(
                    f"a shortcut of {width} channels and stride {chain_stride(self.shortcut)} cannot be added to a product "
                    f"of {self.out_channels} channels and stride {self.stride}; use a projection or none"
                )

    @property
    def in_channels(self) -> int:
        """Channels read."""
        return self.steps[0].in_channels

    @property
    def out_channels(self) -> int:
        """Channels written."""
        return self.steps[-1].out_channels

    @cached_property
    def stride(self) -> int:
        """By how much the block shrinks a map."""
        return chain_stride(self.steps)

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of the product, in order, those inside lanes left out."""
        return tuple(step for step in self.steps if isinstance(step, Factor))

    @cached_property
    def params(self) -> int:
        """Trainable parameters, shortcut included."""
        return chain_params((*self.steps, *(self.shortcut or ())))

    def cost_at(self, size: int) -> tuple[Cost, int]:
        """Cost for an input map of side `size`, and the side of the output map.

        Raises:
            UsageError: lanes, or shortcut and product, end at different sides.
        """
        found = self._costs.get(size)
        if found is None:
            macs, out_size = chain_macs(self.steps, size)
            if self.shortcut is not None:
                more, around = chain_macs(self.shortcut, size)
                if around != out_size:
                    raise UsageError(
                        f"a map of side {size} leaves the shortcut with side {around}, the product with {out_size}; "
                        f"{_SAME_SIDES}"
                    )
                macs += more
            found = self._costs[size] = (Cost(self.params, macs), out_size)
        return found

    def nonzero_macs_at(self, size: int) -> int:
        """Multiply-adds for an input map of side `size` without those with weights that a sparsity leaves out."""
        if all(factor.nm is None for factor in every_factor((*self.steps, *(self.shortcut or ())))):
            return self.cost_at(size)[0].macs
        return sum(chain_macs(steps, size, nonzero=True)[0] for steps in (self.steps, self.shortcut or ()))

    @cached_property
    def text(self) -> str:
        """Canonical JSON text, computed once; hashes are put together from it."""
        from .serialise import block_text, steps_text

        shortcut = None if self.shortcut is None else steps_text(self.shortcut)
        return block_text(steps_text(self.steps), shortcut, self.activation, self.family, self.learned_groups)

    @cached_property
    def key_text(self) -> str:
        """Canonical text of what the block is up to relabelling of channels (identity.py), computed once."""
        from .identity import equivalence_text

        return equivalence_text(self)

    @cached_property
    def is_free(self) -> bool:
        """True if a shuffle is random or explicit, computed once."""
        from .identity import is_free

        return is_free(self)

    @cached_property
    def report(self) -> dict[str, Any]:
        """Conditions of the block: `conditions.block_report`, computed once."""
        from .conditions import block_report

        return block_report(self)


def check_chain(steps: tuple[Step, ...], width: int, what: str) -> None:
    """Raise UsageError unless each step reads as many channels as the one before it writes, `width` at first."""
    for position, step in enumerate(steps):
        if step.in_channels != width:
            raise UsageError(f"step {position + 1} of a {what} reads {step.in_channels} channels but is given {width}")
        width = step.out_channels


def chain_stride(steps: tuple[Step, ...]) -> int:
    """By how much a product of steps shrinks a map."""
    stride = 1
    for step in steps:
        stride *= step.stride
    return stride


def chain_params(steps: tuple[Step, ...]) -> int:
    """Trainable parameters of a product of steps."""
    return sum(step.params for step in steps)


def every_factor(steps: tuple[Step, ...]) -> Iterator[Factor]:
    """All factors of a product, those inside lanes included."""
    for step in steps:
        if isinstance(step, Factor):
            yield step
        elif isinstance(step, Parallel):
            for lane in step.lanes:
                yield from every_factor(lane)


def chain_macs(steps: tuple[Step, ...], size: int, *, nonzero: bool = False) -> tuple[int, int]:
    """Multiply-adds of a product of steps for an input map of side `size`, and the side of its output map.

    Args:
        nonzero: leave out those with weights that a sparsity leaves out.

    Raises:
        UsageError: lanes end at different sides, which poolings of even kernel size can do.
    """
    macs = 0
    for step in steps:
        if isinstance(step, Parallel):
            parts = [chain_macs(lane, size, nonzero=nonzero) for lane in step.lanes]
            macs += sum(part[0] for part in parts)
            if len(sides := {part[1] for part in parts}) > 1:
                raise UsageError(
                    f"a map of side {size} leaves the lanes with sides {[part[1] for part in parts]}; {_SAME_SIDES}"
                )
            (size,) = sides
        else:
            size = step.out_size(size)
            macs += step.nonzero_macs_at(size) if nonzero and isinstance(step, Factor) else step.macs_at(size)
    return macs, size


__all__ = ["Block", "ChannelStep", "Parallel", "Step", "chain_macs", "chain_params", "chain_stride", "every_factor"]
