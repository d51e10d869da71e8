"""Calls that only move numbers (views, transpositions, slices, chunks): what a chain does, found on numbered pixels. Floor 6."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ..spec.operations import Flatten, Gather, Operation, Slice, Unflatten
from .calls import SPREADING, UnknownCallError, call_key

_METHODS = {
    *("view", "reshape", "permute", "transpose", "flatten", "contiguous", "chunk", "split", "squeeze", "unsqueeze"),
    *(
        "clone",
        "detach",
        "to",
        "float",
        "narrow",
        "unflatten",
        "swapaxes",
        "swapdims",
        "movedim",
        "expand",
        "expand_as",
    ),
}
_FUNCTIONS = {
    *(torch.reshape, torch.permute, torch.transpose, torch.flatten, torch.chunk, torch.split, torch.squeeze),
    *(torch.unsqueeze, torch.clone, torch.narrow, torch.swapaxes, torch.movedim, operator.getitem),
}
_MODULES = (nn.Flatten, nn.Identity, nn.Unflatten)


def only_moves(node: fx.Node, module: nn.Module | None) -> bool:
    """True for a call that hands on numbers as they are."""
    if node.op == "call_module":
        return type(module) in _MODULES
    if node.op == "call_method":
        return node.target in _METHODS
    return node.op == "call_function" and node.target in _FUNCTIONS


def moved(traced: fx.GraphModule, chain: Sequence[fx.Node], values: dict[fx.Node, Any]) -> list[Operation] | None:
    """What a chain of moves does to the tensor that its first node gives: no operation where nothing moves; None in between.

    Args:
        chain: from the tensor's node to the last move; each reads the one before it.
        values: what every node gave for the example images.
    """
    source, result = values[chain[0]], values[chain[-1]]
    if not isinstance(result, Tensor) or result.shape[0] != source.shape[0]:
        return None
    numbers: Any = torch.arange(source.numel()).reshape(source.shape)
    for before, node in pairwise(chain):
        numbers = _run(traced, node, before, numbers, values)
    found, shape = numbers.numpy(), tuple(source.shape)
    if found.shape == shape and (found == np.arange(found.size).reshape(shape)).all():
        return []
    if found.size > source.numel() and _is_spread(found, shape) and all(map(_spreads, chain[-1].users)):
        return []  # what reads it spreads it by itself
    if not (found[1:] - found[:-1] == int(np.prod(shape[1:]))).all():
        raise UnknownCallError(f"a move between images ({chain[-1].format_node()})")
    first, size = found[0], shape[1:]
    if not first.size:
        return None
    if first.ndim == len(size) == 1:
        return _of_maps(first[:, None, None], (*size, 1, 1))
    if first.ndim == 1:
        return (
            [Flatten()]
            if len(size) == 3 and (first == np.arange(first.size)).all() and first.size == np.prod(size)
            else None
        )
    if first.ndim == 3 and len(size) == 1 and first.shape[1:] == (1, 1):
        part = _of_maps(first, (*size, 1, 1))
        whole = len(first) == size[0] and (first[:, 0, 0] == np.arange(len(first))).all()
        return [Unflatten()] if whole else part and [*part, Unflatten()]
    if first.ndim != len(size):
        return None
    return _of_maps(first, size)


def _is_spread(found: Any, shape: tuple[int, ...]) -> bool:
    """True if the numbered (N, C, 1, 1), which `shape` is, stand at every pixel of a map."""
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    return found.ndim == 4 and shape[2:] == (1, 1) and found.shape[:2] == shape[:2] and bool((found == numbers).all())


def _spreads(node: fx.Node) -> bool:
    """True for a call that adds or multiplies, with another tensor that is not spread itself."""
    others = [each for each in node.all_input_nodes if str(each.target) not in ("expand", "expand_as")]
    return call_key(node) in SPREADING and bool(others)


def _of_maps(first: Any, size: tuple[int, ...]) -> list[Operation] | None:
    """The operations for a map of numbered pixels of the first image, of shape (C, H, W)."""
    channels, rows, columns = np.unravel_index(first, size)
    order = channels[:, 0, 0]
    steps = tuple(_step(places) for places in (rows[0, :, 0], columns[0, 0, :]))
    straight = np.broadcast_to(order[:, None, None], first.shape)
    if None in steps or not (channels == straight).all() or not _grid(rows, columns):
        return None
    pair = (int(steps[0] or 1), int(steps[1] or 1))
    if any(-(-n // step) != made for n, step, made in zip(size[1:], pair, first.shape[1:], strict=True)):
        return None
    if (np.diff(order) == 1).all():
        return [Slice(int(order[0]), int(order[-1]) + 1, pair)]
    if sorted(order.tolist()) != list(range(size[0])) or pair != (1, 1):
        return None
    for groups in range(2, size[0]):
        if size[0] % groups == 0 and (order == np.arange(size[0]).reshape(groups, -1).T.reshape(-1)).all():
            return [Gather(groups=groups)]
    return [Gather(order=tuple(order.tolist()))]


def _step(places: Any) -> int | None:
    """s if the places are 0, s, 2s, ..."""
    step = int(places[1]) if len(places) > 1 else 1
    return step if step > 0 and (places == step * np.arange(len(places))).all() else None


def _grid(rows: Any, columns: Any) -> bool:
    return bool((rows == rows[:1, :, :1]).all() and (columns == columns[:1, :1, :]).all())


def _run(traced: fx.GraphModule, node: fx.Node, before: fx.Node, numbers: Any, values: dict[fx.Node, Any]) -> Any:
    """The call of a node on `numbers` in place of what `before` gave."""
    args, kwargs = fx.node.map_arg(
        (node.args, node.kwargs), lambda source: numbers if source is before else values[source]
    )
    if node.op == "call_module":
        return traced.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        name = "contiguous" if node.target in ("to", "float", "detach", "clone") else str(node.target)
        return numbers.contiguous() if name == "contiguous" else getattr(args[0], name)(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
