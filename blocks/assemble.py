"""From blocks to a network: stem, stages and head as most small-image networks have them. Used by spaces and references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Factor, Head, Pool, Problem, Stage, StagedArchitecture, Step
from igcsearch.spec.numbers import whole


@lru_cache(maxsize=4096, typed=True)  # spaces ask for it with every price
def stem(
    in_channels: int, width: int, *, stride: int = 1, activation: str = "relu", kernel_size: int = 3, pool: bool = False
) -> Block:
    """3x3 convolution, batch norm, activation: the images' channels to the first width.

    Args:
        kernel_size: of the convolution.
        pool: max pooling 3x3 of stride 2 behind the activation.
    """
    if pool:
        first = Factor(in_channels, width, kernel_size=kernel_size, stride=stride, norm=True, activation=activation)
        return Block((first, Pool(width)), family="stem")
    return Block(
        (Factor(in_channels, width, kernel_size=kernel_size, stride=stride, norm=True),),
        activation=activation,
        family="stem",
    )


def stage(
    definition: Callable[..., Block],
    in_channels: int,
    width: int,
    repeats: int,
    *,
    stride: int = 1,
    transition: Mapping[str, Any] | None = None,
    **options: Any,
) -> Stage:
    """`repeats` blocks of one definition; the first changes the width and shrinks the map by `stride`.

    Args:
        definition: a function of FAMILIES.
        repeats: at least 1.
        transition: options of the first block where they differ (branch widths of a width change), else `options`.

    Raises:
        UsageError: fewer blocks than one, or what the definition refuses.
    """
    if whole(repeats, "repeats of a stage") < 1:
        raise UsageError(f"repeats = {repeats} of a stage must be at least 1; leave the stage out for none")
    first = definition(
        in_channels, width, stride=stride, **(options if transition is None else {**options, **transition})
    )
    others = (definition(width, width, **options),) * (repeats - 1) if repeats > 1 else ()
    return Stage((first, *others))


def network(
    problem: Problem,
    stem_width: int | Block,
    stages: Sequence[Stage],
    *,
    stem_stride: int = 1,
    head_width: int | None = None,
    activation: str = "relu",
    dropout: float = 0.0,
    head_steps: Sequence[Step] = (),
) -> StagedArchitecture:
    """Stem, stages, an optional 1x1 convolution to `head_width`, global average pooling and a linear layer.

    Args:
        stem_width: of a 3x3 stem of `stem_stride`, or the stem itself.
        head_steps: behind the stages, in front of the 1x1: the norm and activation that pre-activation blocks leave to what
            follows them, `NormAct(width, norm=True, activation="relu")`.
    """
    first = stem_width
    if isinstance(first, int):
        first = stem(problem.in_channels, first, stride=stem_stride, activation=activation)
    last = stages[-1].blocks[-1].out_channels if stages else first.out_channels
    steps = tuple(head_steps)
    if head_width is not None:
        last = steps[-1].out_channels if steps else last
        steps = (*steps, Factor(last, head_width, norm=True, activation=activation))
    return StagedArchitecture(
        in_channels=problem.in_channels,
        image_size=problem.image_size,
        num_classes=problem.num_classes,
        stem=first,
        stages=tuple(stages),
        head=Head(steps, dropout),
    )
