"""The parts of a network whose times add up to its own: blocks, head, classifier, each at the shape of its input. Floor 0.

Equal parts take equally long, whatever network they stand in: what was measured of one is known of all (nn/plans.py measures,
search/latency.py adds up). `features` is what the time of a part that was never measured is estimated from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from .architecture import Architecture
from .block import Block, Parallel, Step, chain_macs
from .factor import Factor
from .identity import without_orders
from .steps import ChannelStep, NormAct, SqueezeExcitation

_KINDS = ("pointwise", "grouped pointwise", "spatial", "grouped spatial", "channel-wise")
#: What `Part.features` gives: of each kind of factor how many there are, their multiply-adds, weights, and numbers written; then of
#: the whole part. Kinds and counts differ in what a unit of them takes: a call is not free, and a byte is not a multiply-add.
FEATURES = (
    *(f"{kind} {what}" for kind in _KINDS for what in ("factors", "macs", "weights", "outputs")),
    *(
        "one",
        "inputs",
        "activated",
        "norms",
        "shuffles",
        "strided",
        "poolings",
        "shortcuts",
        "added",
        "classifier macs",
    ),
)


@dataclass(frozen=True)
class Part:
    """One part of a network.

    Attributes:
        block: what runs: a block, or the head's steps as one; None for the classifier (global average pooling, linear layer).
        channels, size: of its input, (channels, size, size).
        num_classes: that the classifier tells apart; 0 for blocks.
        head: True for the head, which has one way to run.
    """

    block: Block | None
    channels: int
    size: int
    num_classes: int = 0
    head: bool = False

    @property
    def key(self) -> str:
        """Equal for parts that run alike."""
        if self.block is None:
            return f"classifier-{self.num_classes} {self.channels}x{self.size}"
        digest = hashlib.sha256(without_orders(self.block).text.encode()).hexdigest()[:12]
        return f"{'head-' * self.head}{digest} {self.channels}x{self.size}"

    def features(self, batch: int) -> tuple[float, ...]:
        """FEATURES of one pass of `batch` images, in the order given there."""
        found = dict.fromkeys(FEATURES, 0.0) | {"one": 1.0, "inputs": float(batch * self.channels * self.size**2)}
        if self.block is None:
            found["classifier macs"] = batch * self.channels * self.num_classes
            return tuple(found.values())
        for steps in (self.block.steps, self.block.shortcut or ()):
            for step, size in _flat(steps, self.size):
                if isinstance(step, ChannelStep):
                    _count_channel_step(found, step, batch, batch * step.channels * size**2)
                    continue
                kind, outputs = _kind(step), batch * step.out_channels * size**2
                found[f"{kind} factors"] += 1
                found[f"{kind} macs"] += step.area * step.branch_width * outputs
                found[f"{kind} weights"] += step.weights
                found[f"{kind} outputs"] += outputs
                found["activated"] += outputs if step.activation else 0
                found["norms"] += step.norm
                found["shuffles"] += step.groups > 1 and step.shuffle.kind != "identity"
                found["strided"] += step.stride > 1
        if self.block.shortcut is not None:
            found["shortcuts"] = 1
            found["added"] = batch * self.block.out_channels * self.block.cost_at(self.size)[1] ** 2
        return tuple(found.values())


def parts(architecture: Architecture) -> Iterator[Part]:
    """The parts of a network in order: stem, blocks, the head if it has steps, the classifier."""
    channels, size = architecture.in_channels, architecture.image_size
    for _, block in architecture.blocks():
        yield Part(block, channels, size)
        channels, size = block.out_channels, block.cost_at(size)[1]
    if architecture.head_steps:
        head = Block(architecture.head_steps)
        yield Part(head, channels, size, head=True)
        channels, size = head.out_channels, head.cost_at(size)[1]
    yield Part(None, channels, size, architecture.num_classes)


def _count_channel_step(found: dict[str, float], step: ChannelStep, batch: int, outputs: int) -> None:
    """Add the features of a step that mixes no channels: norm and activation, or passes over the map as a pooling makes them."""
    if isinstance(step, NormAct):
        found["activated"] += outputs if step.activation else 0
        found["norms"] += step.norm
        return
    found["poolings"] += outputs
    if isinstance(
        step, SqueezeExcitation
    ):  # two 1x1 layers on one pixel, beside the mean and the scaling of the whole map
        found["pointwise factors"] += 2
        found["pointwise macs"] += batch * step.weights
        found["pointwise weights"] += step.weights
        found["pointwise outputs"] += batch * (step.channels + step.reduced)


def _flat(steps: tuple[Step, ...], size: int) -> Iterator[tuple[Factor | ChannelStep, int]]:
    """Every factor and channel step of a product, those of its lanes included, and the side of its output map."""
    for step in steps:
        if isinstance(step, Parallel):
            for lane in step.lanes:
                yield from _flat(lane, size)
            size = chain_macs(step.lanes[0], size)[1]
        else:
            size = step.out_size(size)
            yield step, size


def _kind(factor: Factor) -> str:
    if factor.kernel_size > 1 and factor.branch_width == 1 and factor.groups > 1:
        return "channel-wise"
    return ("" if factor.groups == 1 else "grouped ") + ("pointwise" if factor.kernel_size == 1 else "spatial")
