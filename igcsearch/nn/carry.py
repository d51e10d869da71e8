"""Carrying a state dict over between two modules that compute the same but name their parts differently. Floor 3.

Names and nesting differ from library to library; the order in which layers run, and the shapes of what they hold, do not. So the
leaves that hold parameters or buffers are paired in order of execution on one example, each pair's shapes are compared, and in the
end what both networks give for random images. No table of names, no case for any architecture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .network import BlockLayer

TOLERANCE = 1e-4  # of outputs, relative to their spread
IMAGES = (
    4  # random ones, that outputs are compared on: by those of one image, or of zeros, networks look alike that are not
)
_SEED = 0
_NO_SPREAD = 1e-6  # of the largest output: less is rounding


class _Run(NamedTuple):
    """One module that holds state, as it ran: its name, its own tensors, and the shape of what it gave."""

    name: str
    tensors: dict[str, Tensor]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        held = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in self.tensors.items())
        return f"{self.name or 'the module itself'} ({held}; gives {self.shape})"


@torch.no_grad()
def carry_over(
    source: nn.Module, target: nn.Module, example: Tensor, *, tolerance: float = TOLERANCE
) -> list[tuple[str, str]]:
    """Copy every parameter and buffer of `source` into `target`, which computes the same under other names.

    Both run the example once, and afterwards four random images of its size, in eval mode, without gradients; modes and (of our
    networks) the execution are put back. A leaf that runs more than once counts once, where it ran first.

    Args:
        source: any module, such as torchvision's, whose parameters are all held by leaves (convolutions, norms, linear layers).
        target: of any kind too; usually a `Network`. It holds the source's values afterwards, in its own types.
        example: what both can be called with, (N, C, H, W), on their device and in their precision; what it shows does not matter.
        tolerance: largest difference of the two outputs, relative to how far the source's outputs for the random images are from
            their mean; inf: outputs are not compared.

    Returns:
        The names of the leaves that were paired, (source, target), in order of execution.

    Raises:
        UsageError: leaves that do not pair (names both and their shapes), do not run or give no tensor; networks whose outputs
            differ in spite of equal shapes, are no tensors of one row an image, or are the same for every image. Whatever
            is raised, the target is as it was.
    """
    if not tolerance >= 0:
        raise UsageError(f"tolerance {tolerance} must be at least 0; inf leaves outputs uncompared")
    if not example.is_floating_point() or example.dim() < 2:
        raise UsageError(
            f"an example of shape {tuple(example.shape)} and type {example.dtype}: give floating point, (N, C, H, W)"
        )
    given, _ = _executed(source, example, "source")
    taken, _ = _executed(target, example, "target")
    for number, (one, other) in enumerate(zip_longest(given, taken), 1):
        if one is None or other is None:
            shorter, extra = ("source", other) if one is None else ("target", one)
            raise UsageError(
                f"leaf {number}: the {shorter} has no counterpart of {extra}; the networks are not the same"
            )
        same = one.shape == other.shape and list(one.tensors) == list(other.tensors)
        if not same or any(tensor.shape != other.tensors[key].shape for key, tensor in one.tensors.items()):
            raise UsageError(
                f"leaf {number}: source's {one} does not fit target's {other}; the networks are not the same"
            )
    before = [{key: tensor.clone() for key, tensor in run.tensors.items()} for run in taken]
    try:
        for one, other in zip(given, taken, strict=True):
            for key, tensor in other.tensors.items():
                tensor.copy_(one.tensors[key])
        if tolerance < math.inf:
            _compare(source, target, example, tolerance)
    except BaseException:
        for run, kept in zip(taken, before, strict=True):
            for key, tensor in run.tensors.items():
                tensor.copy_(kept[key])
        raise
    return [(one.name, other.name) for one, other in zip(given, taken, strict=True)]


def _compare(source: nn.Module, target: nn.Module, example: Tensor, tolerance: float) -> None:
    """Raise UsageError unless both give the same for random images of the example's size, as far as images make a difference."""
    noise = torch.randn((IMAGES, *example.shape[1:]), generator=torch.Generator().manual_seed(_SEED))
    images = noise.to(example)
    expected, found = (_executed(each, images, role)[1] for each, role in ((source, "source"), (target, "target")))
    for role, output in (("source", expected), ("target", found)):
        if not isinstance(output, Tensor) or output.dim() < 1 or len(output) != IMAGES:
            shape = f" of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
            raise UsageError(
                f"the {role} gives a {type(output).__name__}{shape} for {IMAGES} images: outputs are compared as tensors of one "
                "row an image; wrap it in a module that gives one, or leave them uncompared with tolerance=inf"
            )
    assert isinstance(expected, Tensor)
    assert isinstance(found, Tensor)
    if expected.shape != found.shape:
        raise UsageError(
            f"every shape inside fits, but the source gives {tuple(expected.shape)} and the target {tuple(found.shape)}"
        )
    expected, found = expected.double(), found.double()
    spread = (expected - expected.mean(dim=0)).abs().max()
    if not spread > _NO_SPREAD * expected.abs().max():  # nan, too
        raise UsageError(
            f"the source gives the same for {IMAGES} random images, to {float(spread):.2g}, so its outputs cannot tell whether the "
            "target computes the same; give it weights that let signals through, or tolerance=inf"
        )
    difference = (found - expected).abs().max() / spread
    if not difference <= tolerance:
        raise UsageError(
            f"every shape fits, but the outputs differ by {float(difference):.2g} of their spread over random images (allowed: "
            f"{tolerance:g}): the networks differ in what has no parameters, such as a dilation, an activation, a pooling or the "
            "order of channels"
        )


def _executed(module: nn.Module, example: Tensor, role: str) -> tuple[list[_Run], object]:
    """The leaves that hold state, in order of execution, and what the module gives.

    Raises:
        UsageError: state outside of leaves, or in one that does not run or gives no tensor.
    """
    names = {each: name for name, each in module.named_modules()}
    leaves = {each: held for each in names if (held := _own_state(each))}
    for each in leaves:
        if next(each.children(), None) is not None:
            raise UsageError(
                f"the {role}'s {names[each] or 'module itself'} ({type(each).__name__}) holds {', '.join(leaves[each])} beside "
                "modules of its own; only leaves can be paired"
            )
    runs: dict[nn.Module, _Run] = {}

    def note(leaf: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, Tensor):
            raise UsageError(
                f"the {role}'s {names[leaf] or 'module itself'} ({type(leaf).__name__}) gives a {type(output).__name__}: only "
                "leaves that give a tensor can be paired"
            )
        runs.setdefault(leaf, _Run(names[leaf], leaves[leaf], tuple(output.shape)))

    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with _plainly(module):
            result: object = module(example)
    finally:
        for hook in hooks:
            hook.remove()
    if missed := [names[leaf] for leaf in leaves if leaf not in runs]:
        raise UsageError(f"the {role}'s {missed[0]} did not run on the example, so it cannot be paired")
    return list(runs.values()), result


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    """What the module itself puts into a state dict, its children's left out."""
    return {key: value for key, value in module.state_dict(keep_vars=True).items() if "." not in key}


@contextmanager
def _plainly(module: nn.Module) -> Iterator[None]:
    """In eval mode, our blocks layer by layer (fused ones call no convolution); as before afterwards."""
    training = {each: each.training for each in module.modules()}
    executions = {each: each.execution for each in training if isinstance(each, BlockLayer)}
    module.eval()
    for block in executions:
        block.execution = "plain"
    try:
        yield
    finally:
        for each, mode in training.items():
            each.training = mode
        for block, execution in executions.items():
            block.execution = execution
