"""What a reference network is: a name, how it is built, and the figures that were published of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Problem
from igcsearch.spec.numbers import nearest, whole

CIFAR10 = Problem(image_size=32, in_channels=3, num_classes=10)
CIFAR100 = Problem(image_size=32, in_channels=3, num_classes=100)
IMAGENET = Problem(image_size=224, in_channels=3, num_classes=1000)


@dataclass(frozen=True)
class Reference:
    """One network of a published table. It has an architecture and figures, but no weights.

    Args:
        name: lower case with underscores, as timm names networks.
        table: a short name of the table that it stands in, shared by its rows.
        build: gives the architecture; called once.
        published_params, published_macs: as published, in whole parameters and multiply-adds; None where no source was at hand.
        note: what the figures count, what was assumed, and why ours differ where they do.
        source: paper, table or repository, and the fact sheet's section.
        published_accuracy: top-1 on the test data, a fraction.
        data: what it was trained on: imagenet, cifar10 or cifar100.
        params_unit, macs_unit: the last digit that was published: 10,000 for "0.65 M".
        published_block: weights of one block of the first stage, where that is what the paper gives.
        reconstruction: True where the layout is not known and was made to meet the figures.
    """

    name: str
    table: str
    build: Callable[[], Architecture] = field(repr=False)
    published_params: int | None
    published_macs: int | None
    note: str
    source: str
    published_accuracy: float | None = None
    data: str = "imagenet"
    params_unit: int = 1
    macs_unit: int = 1
    published_block: int | None = None
    reconstruction: bool = False

    @cached_property
    def architecture(self) -> Architecture:
        """The network, for the data that it was published on; `Architecture.with_` makes it one for other data."""
        return self.build()


def blocks_a_stage(depth: int, layers: int) -> int:
    """Blocks in each of the three stages of a network of 2 + 3 * layers * blocks layers: stem and classifier are the 2.

    Args:
        depth: of the network.
        layers: that a block counts as.

    Raises:
        UsageError: another depth, with the nearest that work.
    """

    def works(depth: int) -> bool:
        return depth > 2 and (depth - 2) % (3 * layers) == 0

    if not works(whole(depth, "depth")):
        raise UsageError(
            f"depth {depth} is not 2 + {3 * layers} * blocks a stage, with at least one block; nearest depths: "
            f"{nearest(depth, works, reach=abs(depth) + 9 * layers)}"
        )
    return (depth - 2) // (3 * layers)


def millions(figure: float) -> int:
    """So many millions as a whole number."""
    return round(figure * 1e6)
