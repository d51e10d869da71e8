"""The kind `staged`: stem, stages of blocks, head; its JSON, closed-form cost, hash and equivalence key. Floor 0."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from ..errors import UsageError
from .architecture import SCHEMA, Architecture
from .block import Block, Step, chain_macs, chain_params, chain_stride, check_chain
from .factor import Factor
from .problem import Cost, Problem
from .serialise import (
    block_data,
    canonical,
    check_fields,
    check_list,
    check_object,
    parse_block,
    parse_steps,
    steps_data,
)


@dataclass(frozen=True)
class Stage:
    """Blocks at one resolution; the first may shrink the map and change the width."""

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise UsageError("a stage needs at least one block")


@dataclass(frozen=True)
class Head:
    """What follows the stages: steps (often none), global average pooling, dropout, a linear layer with bias."""

    steps: tuple[Step, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"dropout {self.dropout} must be in [0, 1)")


@dataclass(frozen=True)
class StagedArchitecture(Architecture):
    """One whole network of the kind `staged`: what searches propose.

    Args:
        in_channels, image_size: input of shape (N, in_channels, image_size, image_size).
        num_classes: logits of shape (N, num_classes).
        stem: the first block; reads in_channels.
        stages, head: the rest.

    Raises:
        UsageError: parts whose widths do not meet, or strides that leave no pixel of the image.
    """

    in_channels: int
    image_size: int
    num_classes: int
    stem: Block
    stages: tuple[Stage, ...]
    head: Head = Head()

    def __post_init__(self) -> None:
        checked = Problem(self.image_size, self.in_channels, self.num_classes)
        for name in ("image_size", "in_channels", "num_classes"):
            object.__setattr__(self, name, getattr(checked, name))
        width = self.in_channels
        for name, block in self.blocks():
            if block.in_channels != width:
                raise UsageError(f"{name} reads {block.in_channels} channels but is given {width}")
            width = block.out_channels
        check_chain(self.head.steps, width, "head")
        if self.out_size < 1:
            raise UsageError(
                f"the strides leave no pixel of an image of {self.image_size}; use a larger image or fewer strides"
            )

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """(name, block) in order: stem, stage1.block1, stage1.block2, ..."""
        yield "stem", self.stem
        for s, stage in enumerate(self.stages, 1):
            for b, block in enumerate(stage.blocks, 1):
                yield f"stage{s}.block{b}", block

    def sized_blocks(self) -> Iterator[tuple[str, Block, int]]:
        """(name, block, side of the map that it reads) in order, as `blocks` names them."""
        size = self.image_size
        for name, block in self.blocks():
            yield name, block, size
            size = block.cost_at(size)[1]

    def with_blocks(self, blocks: Sequence[Block]) -> StagedArchitecture:
        """The same network with other blocks, one for each that `blocks` gives, the stem first."""
        stages, begin = [], 1
        for stage in self.stages:
            stages.append(Stage(tuple(blocks[begin : begin + len(stage.blocks)])))
            begin += len(stage.blocks)
        return replace(self, stem=blocks[0], stages=tuple(stages))

    @property
    def head_steps(self) -> tuple[Step, ...]:
        """The head's steps."""
        return self.head.steps

    @property
    def features(self) -> int:
        """Channels that the linear layer reads."""
        if self.head.steps:
            return self.head.steps[-1].out_channels
        return self.stages[-1].blocks[-1].out_channels if self.stages else self.stem.out_channels

    @cached_property
    def _cost_and_size(self) -> tuple[Cost, int]:
        params = macs = 0
        size = self.image_size
        cost, size = self.stem.cost_at(size)
        params, macs = cost
        for stage in self.stages:
            for block in stage.blocks:
                cost, size = block.cost_at(size)
                params += cost.params
                macs += cost.macs
        head_macs, size = chain_macs(self.head.steps, size)
        params += chain_params(self.head.steps) + (self.features + 1) * self.num_classes
        return Cost(params, macs + head_macs + self.features * self.num_classes), size

    @property
    def cost(self) -> Cost:
        """Closed-form parameters and multiply-adds of one image (convolutions and the linear layer), exact."""
        return self._cost_and_size[0]

    @cached_property
    def nonzero_macs(self) -> int:
        """`macs` without the multiply-adds with weights that an N:M sparsity leaves out (spec/sparsity.py)."""
        size = self.image_size
        macs = self.features * self.num_classes
        for _, block, size in self.sized_blocks():
            macs += block.nonzero_macs_at(size)
            size = block.cost_at(size)[1]
        return macs + chain_macs(self.head.steps, size, nonzero=True)[0]

    @property
    def out_size(self) -> int:
        """Side of the map that global average pooling reads."""
        return self._cost_and_size[1]

    @property
    def stride(self) -> int:
        """By how much the network shrinks an image."""
        shrunk = chain_stride(self.head.steps)
        for _, block in self.blocks():
            shrunk *= block.stride
        return shrunk

    @property
    def family(self) -> str:
        """The families of the stages' blocks, joined by "+" where there are several."""
        names = {block.family: None for stage in self.stages for block in stage.blocks if block.family}
        return "+".join(names) or "custom"

    @cached_property
    def hash(self) -> str:
        """8 hexadecimal digits of the SHA-256 of the normalised JSON data less the schema version; fixed for good."""
        return hashlib.sha256(self._text(lambda block: block.text).encode()).hexdigest()[:8]

    @cached_property
    def key(self) -> str:
        """Equivalence key, 16 hexadecimal digits: equal for architectures that relabelling of channels makes the same.

        A network with random or explicit shuffles has the key of the one with interleaves in their place if it is the same; for
        others the canonical form of the wiring decides. (Two networks without such shuffles, one with an interleave where the
        other has an identity, are taken for different even where they are not.)
        """
        text = self._text(lambda block: block.key_text)
        if self._is_free:
            from .labelling import canonical_wiring

            plain = self._patterned(free_only=True)
            plain_text = plain._text(lambda block: block.key_text)
            wiring = "" if text == plain_text else canonical_wiring(self)
            if not wiring or wiring == canonical_wiring(plain):
                text = plain_text
            else:
                text = self._patterned(free_only=False)._text(lambda block: block.key_text) + wiring
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def _is_free(self) -> bool:
        head = (Block(self.head.steps),) if self.head.steps else ()
        return any(block.is_free for block in (*(block for _, block in self.blocks()), *head))

    def _patterned(self, free_only: bool) -> StagedArchitecture:
        """With interleaves in place of random and explicit shuffles, or of all."""
        from .identity import patterned

        stages = tuple(Stage(tuple(patterned(block, free_only) for block in stage.blocks)) for stage in self.stages)
        head = self.head
        if head.steps:
            head = replace(head, steps=patterned(Block(head.steps), free_only).steps)
        return replace(self, stem=patterned(self.stem, free_only), stages=stages, head=head)

    def _text(self, block_text: Callable[[Block], str]) -> str:
        """`canonical(self.to_dict())` less the schema, put together from the blocks' own (cached) texts."""
        stages = ",".join(
            '{"blocks":['
            + ",".join(_run_text(text, sum(1 for _ in run)) for text, run in groupby(map(block_text, stage.blocks)))
            + "]}"
            for stage in self.stages
        )
        head = _head_data(self.head)
        parts = [f'"head":{canonical(head)}'] if head else []
        parts.append(
            f'"image_size":{self.image_size},"in_channels":{self.in_channels},"num_classes":{self.num_classes}'
        )
        return "{" + ",".join(parts) + f',"stages":[{stages}],"stem":{block_text(self.stem)}' + "}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data with the schema version; equal neighbours in a stage are one item with `repeats`."""
        data: dict[str, Any] = {
            "schema": SCHEMA,
            "in_channels": self.in_channels,
            "image_size": self.image_size,
            "num_classes": self.num_classes,
            "stem": block_data(self.stem),
            "stages": [{"blocks": [_run_data(*run) for run in _runs(stage.blocks)]} for stage in self.stages],
        }
        if head := _head_data(self.head):
            data["head"] = head
        return data

    def with_(
        self, *, num_classes: int | None = None, in_channels: int | None = None, image_size: int | None = None
    ) -> StagedArchitecture:
        """The same network for another number of classes, input channels (the stem's first factor) or image size.

        Raises:
            UsageError: a number that is not whole or too small, another image size that is smaller than the strides together, or
                a stem that is tied to its channels.
        """
        stem = self.stem
        wanted = Problem(
            self.image_size if image_size is None else image_size,
            self.in_channels if in_channels is None else in_channels,
            self.num_classes if num_classes is None else num_classes,
        )
        if wanted.image_size != self.image_size and wanted.image_size < self.stride:
            raise UsageError(
                f"this network shrinks images {self.stride} times, so {wanted.image_size} pixels a side are too few: use at least "
                f"{self.stride}, or a network of fewer strides"
            )
        if wanted.in_channels != self.in_channels:
            first = stem.steps[0]
            if not isinstance(first, Factor) or first.groups != 1 or first.nm or stem.shortcut is not None:
                raise UsageError(
                    f"the stem of this network cannot read {wanted.in_channels} channels: its first step is not dense"
                )
            stem = replace(stem, steps=(replace(first, in_channels=wanted.in_channels), *stem.steps[1:]))
        return replace(
            self,
            stem=stem,
            in_channels=wanted.in_channels,
            image_size=wanted.image_size,
            num_classes=wanted.num_classes,
        )


def parse_staged(given: dict[str, Any]) -> StagedArchitecture:
    """The inverse of `StagedArchitecture.to_dict`, less "schema" and "kind".

    Raises:
        UsageError: data that is no architecture, with its place in the document.
    """
    fields = dict(given)
    stem = parse_block(fields.pop("stem", None), "architecture.stem")
    stages = tuple(
        _parse_stage(item, f"architecture.stages[{i}]")
        for i, item in enumerate(check_list(fields.pop("stages", None), "architecture.stages"))
    )
    head = _parse_head(fields.pop("head", {}))
    sizes = check_fields(fields, {"in_channels": int, "image_size": int, "num_classes": int}, "architecture")
    if missing := [name for name in ("in_channels", "image_size", "num_classes") if name not in sizes]:
        raise UsageError(f"architecture: field {missing[0]!r} is missing")
    return StagedArchitecture(stem=stem, stages=stages, head=head, **sizes)


def _runs(blocks: tuple[Block, ...]) -> Iterator[tuple[Block, int]]:
    """Maximal runs of equal neighbours."""
    for _, run in groupby(blocks, key=lambda block: block.text):
        members = list(run)
        yield members[0], len(members)


def _run_data(block: Block, count: int) -> dict[str, Any]:
    return block_data(block) | ({"repeats": count} if count > 1 else {})


def _run_text(text: str, count: int) -> str:
    """Canonical text of a run of blocks of that canonical text: "repeats" sorts before "shortcut" and "steps"."""
    if count == 1:
        return text
    place = min(found for key in ('"shortcut":', '"steps":') if (found := text.find(key)) >= 0)
    return f'{text[:place]}"repeats":{count},{text[place:]}'


def _head_data(head: Head) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if head.steps:
        data["steps"] = steps_data(head.steps)
    if head.dropout:
        data["dropout"] = head.dropout
    return data


def _parse_head(data: Any) -> Head:
    fields = dict(check_object(data, "architecture.head"))
    steps = parse_steps(fields.pop("steps", []), "architecture.head.steps")
    return Head(steps=steps, **check_fields(fields, {"dropout": float}, "architecture.head"))


def _parse_stage(data: Any, where: str) -> Stage:
    fields = dict(check_object(data, where))
    blocks: list[Block] = []
    for i, item in enumerate(check_list(fields.pop("blocks", None), f"{where}.blocks")):
        place = f"{where}.blocks[{i}]"
        one = dict(check_object(item, place))
        repeats = one.pop("repeats", 1)
        if type(repeats) is not int or not 1 <= repeats <= 1000:
            raise UsageError(f"{place}.repeats: expected a whole number from 1 to 1000, found {repeats!r}")
        blocks += [parse_block(one, place)] * repeats
    check_fields(fields, {}, where)
    return Stage(tuple(blocks))
