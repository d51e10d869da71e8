"""Which layers N:M sparsity is for, what each of their weights is worth, and what the masks keep. Floor 6."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ..errors import UsageError, near
from ..spec.graph import GraphArchitecture, Node
from ..spec.operations import Convolution
from ..spec.sparsity import Sparsity
from .channels import is_channelwise
from .criterion import gradients

SCORES = ("magnitude", "taylor")


def sparsifiable(graph: GraphArchitecture, axis: str = "in") -> list[tuple[Node, Convolution]]:
    """The convolutions that N:M sparsity can be given: dense or with groups, weights of their own, lines of 2 channels at least."""
    shared = {node.shares for node in graph.nodes}
    return [
        (node, convolution)
        for node, convolution in graph.convolutions()
        if convolution.nm is None
        and not is_channelwise(convolution)
        and node.shares is None
        and node.name not in shared
        and line_of(convolution, axis) > 1
    ]


def line_of(convolution: Convolution, axis: str) -> int:
    """The channels of one line: the input or output channels of one branch."""
    return Sparsity(1, 1, axis).line(convolution.in_channels, convolution.out_channels, convolution.groups)[1]


def chosen_lines(
    graph: GraphArchitecture, sparsity: Sparsity, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """The layers to make sparse, and a line for people on each with a line of fewer than M channels.

    Such a layer is left as it is, unless a pattern of `only` names it without a wildcard.

    Args:
        only, skip: patterns as in a shell. Layers are those that match one of `only` (all without) and none of `skip`.

    Raises:
        UsageError: a pattern that matches no layer, or nothing left.
    """
    every = sparsifiable(graph, sparsity.axis)
    if not every:
        raise UsageError(
            "the network has no convolution that can be made sparse: one with lines of at least 2 channels and weights of its own"
        )
    known = [node.name for node, _ in every]
    for pattern in (*only, *skip):
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(
                f"no convolution that can be made sparse matches {pattern!r}; there are {', '.join(known[:6])}"
                f"{' ...' * (len(known) > 6)}"
            )
    names, lines = [], []
    for node, convolution in every:
        if (only and not any(fnmatchcase(node.name, pattern) for pattern in only)) or any(
            fnmatchcase(node.name, pattern) for pattern in skip
        ):
            continue
        channels = line_of(convolution, sparsity.axis)
        if channels >= sparsity.m:
            names.append(node.name)
            continue
        told = f"{node.name}: {sparsity.told(channels)}"
        if node.name in only:
            names.append(node.name)
            lines.append(told)
        else:
            lines.append(
                f"{told}; left dense, as the line is shorter than {sparsity.m} (--only {node.name} takes it all the same)"
            )
    if not names and lines:
        raise UsageError(
            f"no convolution is left that has lines of at least {sparsity.m} channels; take a smaller M, skip fewer, "
            "or name layers with --only"
        )
    if not names:
        raise UsageError("no convolution is left to be made sparse; skip fewer, or name more with --only")
    convolutions = [(node.name, convolution) for node, convolution in graph.convolutions() if node.name not in known]
    for what, those in (
        ("N:M sparsity already", [name for name, of in convolutions if of.nm is not None]),
        (
            "lines of one channel",
            [name for name, of in convolutions if of.nm is None and line_of(of, sparsity.axis) < 2],
        ),
    ):
        if those:
            named = f"{', '.join(those[:6])}{' ...' * (len(those) > 6)}"
            lines.append(f"left as they are, with {what}: {named}")
    return names, lines


def weight_scores(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    names: Sequence[str],
    kind: str = "magnitude",
    batches: Iterable[tuple[Tensor, Tensor]] = (),
) -> dict[str, Tensor]:
    """What each weight of these layers is worth: |w|, or |w dloss/dw| with the mean loss over all batches; of the weight's shape.

    Args:
        kind: magnitude or taylor.
        batches: images (N, C, H, W), normalised, and labels (N,), for taylor.

    Raises:
        UsageError: an unknown kind, no images for taylor.
    """
    if kind not in SCORES:
        raise UsageError(f"unknown selection {kind!r}{near(kind, SCORES)}; known: {', '.join(SCORES)}")
    if kind == "magnitude":
        return {name: state[f"{name}.weight"].abs() for name in names}
    slopes = gradients(graph, state, names, batches)
    return {name: (state[f"{name}.weight"] * slopes[name]).abs() for name in names}


def kept_shares(scores: Tensor, m: int, axis: str = "in", groups: int = 1) -> list[float]:
    """The share of the scores' sum that N:M keeps, for N from 1 to M; 1 where all are 0.

    Args:
        scores: (C_out, C_in / G, kh, kw), not negative.
        groups: of the convolution.
    """
    whole = float(scores.sum(dtype=torch.float64))
    if whole <= 0:
        return [1.0] * m
    if axis == "in":
        lines = scores.movedim(1, -1)
    else:
        lines = scores.unflatten(0, (groups, -1)).movedim(1, -1)
    full, rest = divmod(lines.shape[-1], m)
    ranked = lines[..., : full * m].unflatten(-1, (full, m)).sort(dim=-1, descending=True).values
    by_rank = ranked.sum(dim=tuple(range(ranked.ndim - 1)), dtype=torch.float64).cumsum(0).tolist()
    last = lines[..., full * m :].sort(dim=-1, descending=True).values.flatten(0, -2).sum(dim=0, dtype=torch.float64)
    of_last = [0.0, *last.cumsum(0).tolist()]
    return [(by_rank[n - 1] + of_last[-(-rest * n // m)]) / whole for n in range(1, m + 1)]


def kept_share(scores: Tensor, sparsity: Sparsity, groups: int = 1) -> float:
    """What `kept_shares` gives for one sparsity."""
    return kept_shares(scores, sparsity.m, sparsity.axis, groups)[sparsity.n - 1]
