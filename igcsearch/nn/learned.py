"""Shuffles while they are learned: factors with all weights, under a mask that closes into branches. Floor 3.

A factor whose branches are open has a dense weight. Its mask holds, for each output and input channel, how much they share a
branch; `leak` lets the rest through, so that learning begins as with a dense layer. Three published ways move the mask:

- assignment: branches by exact assignment on the weights' norms, anew every few steps, while `leak` closes (StrucSpars, Zhang et
  al., UAI 2021, where a growing penalty closes it);
- sinkhorn: shares of channels in branches as a softmax with prices that keep the branches equally large (Sinkhorn's iterations),
  with Gumbel noise, under a falling temperature (Mena et al., ICLR 2018);
- lipschitz: a doubly stochastic matrix of positions and channels, driven to a permutation by the exact penalty l1 - l2 of its rows
  and columns (AutoShuffleNet, Lyu et al., KDD 2020).

The two that have parameters are also pulled to where the weights are: by the share of the weights' norms outside of the branches,
as StrucSpars's penalty has it (measured on planted groups of both sides: 0 of 10 found without it, 10 of 10 with it). Towards the
end of the soft phase they are blended with the exact assignment that they say then, so that hardening changes nothing: it leaves
an ordinary network (spec/learning.py) and its weights.

Shape legend: O output and I input channels, C channels of one side, G branches, k kernel side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..permutations import solve
from ..permutations.assignment import balanced
from ..spec import Block, Factor, Shuffle
from ..spec.conditions import path_counts
from ..spec.learning import Gap, LearningRule, gaps, written_at
from ..spec.permutations import Order, invert
from .layers import ACTIVATIONS, FactorLayer, convolution
from .network import StagedNetwork, block_layer, module_name
from .products import planned
from .sides import CLOSED, CLOSED_EARLY, SIDES, WARM_UP, SharedSide, Side, complete, part
from .sparse import kernel


class SoftFactorLayer(nn.Module):
    """A factor whose branches are open: a dense convolution under a mask. (N, C_in, H, W) to (N, C_out, H', W').

    Args:
        layer: the factor's layer; its norm is taken over.
        columns, rows: whether the channels of a branch are learned for the inputs, for the outputs.
        rule: how.
        stream: of its random numbers.
    """

    def __init__(self, layer: FactorLayer, *, columns: bool, rows: bool, rule: LearningRule, stream: int) -> None:
        super().__init__()
        factor = layer.factor
        self.groups, self.way, self.stream = factor.groups, rule.way, stream
        self.factor = replace(factor, groups=1, shuffle=Shuffle("identity") if rows else factor.shuffle)
        self.learns = {"columns": columns, "rows": rows}
        conv = convolution(self.factor)
        assert isinstance(conv, nn.Conv2d)  # spec/learning.py leaves N:M sparsities out
        self.conv = conv
        self.columns = self._side(factor.in_channels, columns, rule, 2 * stream)
        self.rows = self._side(factor.out_channels, rows, rule, 2 * stream + 1)
        self.shuffle = nn.Identity() if rows else layer.shuffle
        self.norm = layer.norm
        self.leak = 1.0

    def _side(self, channels: int, learned: bool, rule: LearningRule, stream: int) -> Side:
        if not learned or rule.way not in SIDES:
            return Side(channels, self.groups)
        return SIDES[rule.way](channels, self.groups, rule, stream)

    def mask(self) -> Tensor:
        """How much of each weight counts, (O, I)."""
        dtype = self.conv.weight.dtype
        inside = self.rows().to(dtype).T @ self.columns().to(dtype)
        return inside + self.leak * (1 - inside) if self.leak else inside

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Masked convolution, then shuffle, norm and activation."""
        conv = self.conv
        weight = conv.weight * self.mask()[:, :, None, None]
        y_NCHW = F.conv2d(x_NCHW, weight, conv.bias, conv.stride, conv.padding, conv.dilation)
        return ACTIVATIONS[self.factor.activation](self.norm(self.shuffle(y_NCHW)))

    def advance(self, progress: float, keys: tuple[int, int]) -> None:
        """Go to a place of the soft phase, from 0 to 1."""
        self.leak = 1.0 - part(progress, WARM_UP, CLOSED if self.way == "assignment" else CLOSED_EARLY)
        for side in (self.columns, self.rows):
            side.advance(progress, keys)

    def penalty(self) -> Tensor | None:
        """What pulls the masks, if anything: the share of the weights' norms outside of the branches, and each side's own."""
        sides = [penalty for side in (self.columns, self.rows) if (penalty := side.penalty()) is not None]
        if self.way in SIDES and self.leak < 1 and not self.settled:
            norms = self.conv.weight.detach().flatten(2).norm(dim=2)
            sides.append((norms * (1 - self.mask())).sum() / norms.sum().clamp_min(1e-12))
        return sum(sides[1:], sides[0]) if sides else None

    @property
    def settled(self) -> bool:
        """True once the mask is closed and moves no more."""
        return all(not isinstance(side, SharedSide) or side.progress >= CLOSED for side in (self.columns, self.rows))

    @torch.no_grad()
    def assign(self, thorough: bool = True) -> None:
        """Of the way `assignment`: branches anew, by the norms of the kernels as they count now.

        Args:
            thorough: with both sides open, from several starts and not only from where they are.
        """
        if self.way != "assignment" or self.leak == 0:
            return
        criterion = (self.conv.weight.flatten(2).norm(dim=2) * self.mask()).double().cpu().numpy()
        if not np.isfinite(criterion).all():
            return  # the training diverges, which its losses say
        columns, rows = self.columns.hard(), self.rows.hard()
        if thorough and self.learns["rows"] and self.learns["columns"]:
            found = solve(criterion, self.groups, method="alternating", seed=self.stream)
            rows, columns = (groups_of(order, self.groups) for order in found)
        if self.learns["columns"]:
            gains = _sums(criterion.T, rows, self.groups)
            columns = complete(balanced(gains, columns), self.columns.sources, gains)
        if self.learns["rows"]:
            rows = balanced(_sums(criterion, columns, self.groups), rows)
        self.columns.put(columns)
        self.rows.put(rows)

    def permutations(self) -> tuple[Order, Order]:
        """(rows, columns): the channels of branch after branch, each branch's in their order. Shapes (O,), (I,)."""
        rows, columns = (np.argsort(side.hard(), kind="stable") for side in (self.rows, self.columns))
        return rows, columns


class LearnedShuffles:
    """The open gaps of a network in training, which becomes soft.

    Args:
        network: of an architecture with learned shuffles; the factors that read them are replaced in place.
        rule: how they are learned.
        seed: of noise and fresh weights.
        keep_weights: begin with the network's own weights within the branches and zero elsewhere, not with fresh ones.

    Raises:
        UsageError: a learned shuffle that has nothing to learn (`spec.learning.reduced` takes those out).
    """

    def __init__(self, network: StagedNetwork, rule: LearningRule, *, seed: int, keep_weights: bool = False) -> None:
        self.architecture, self.rule, self._seed = network.architecture, rule, seed
        self.gaps, reasons = gaps(network.architecture)
        if reasons:
            raise UsageError(f"nothing to learn: {reasons[0]}")
        self._blocks = {name: block_layer(network, name) for name, _ in network.architecture.blocks()}
        starts: dict[tuple[str, int], Order] = {}  # what the shuffles stand at
        for gap in self.gaps:
            before = self._blocks[gap.block].steps[gap.step]
            assert isinstance(before, FactorLayer)
            starts[gap.block, gap.step] = order = before.factor.order
            if keep_weights and not gap.of_rows:  # its norm stood behind the shuffle
                _reorder(before.norm, invert(order))
            before.factor = replace(before.factor, shuffle=Shuffle("identity"))
            before.shuffle = nn.Identity()
        self.layers: dict[tuple[str, int], SoftFactorLayer] = {}
        for stream, (block, reader) in enumerate(sorted({(gap.block, gap.reader) for gap in self.gaps})):
            kinds = {gap.of_rows for gap in self.gaps if (gap.block, gap.reader) == (block, reader)}
            steps = self._blocks[block].steps
            layer = steps[reader]
            assert isinstance(layer, FactorLayer)
            own = (seed * 1009 + stream) % 2**31
            soft = SoftFactorLayer(layer, columns=False in kinds, rows=True in kinds, rule=rule, stream=own)
            if not soft.learns["columns"]:
                starts[block, reader - 1] = np.arange(layer.factor.in_channels)
            soft.columns.put(groups_of(starts[block, reader - 1], soft.groups))
            if soft.learns["rows"]:
                soft.rows.put(groups_of(invert(starts[block, reader]), soft.groups))
            if soft.learns["columns"]:
                soft.columns.sources = _sources(dict(network.architecture.blocks())[block], reader - 1)
            _fill(soft, layer, starts, (block, reader), keep_weights)
            steps[reader] = soft
            self.layers[block, reader] = soft
        for block in {gap.block for gap in self.gaps}:
            self._blocks[block].plan = planned(list(self._blocks[block].steps))
        self.advance(0.0, 0)

    def parameters(self) -> list[nn.Parameter]:
        """What moves the masks: to be learned with a rate of its own, without weight decay."""
        sides = (side for layer in self.layers.values() for side in (layer.columns, layer.rows))
        return [parameter for side in sides for parameter in side.parameters()]

    def advance(self, progress: float, step: int) -> None:
        """Go to a place of the soft phase, from 0 to 1; `step` names the noise."""
        for layer in self.layers.values():
            layer.advance(progress, (self._seed, step))

    def add_penalty_gradients(self) -> None:
        """Add the gradients of the penalties to those of the loss."""
        penalties = [penalty for layer in self.layers.values() if (penalty := layer.penalty()) is not None]
        if penalties:
            torch.stack(penalties).sum().backward()

    def settle(self) -> None:
        """After a step of the optimizer."""
        for layer in self.layers.values():
            layer.columns.project()
            layer.rows.project()

    def assign(self, thorough: bool) -> None:
        """Of the way `assignment`: branches anew; see `SoftFactorLayer.assign`."""
        for layer in self.layers.values():
            layer.assign(thorough)

    def close(self) -> None:
        """Settle on the branches that the shares say; at READ of the soft phase."""
        for layer in self.layers.values():
            layer.columns.close()
            layer.rows.close()

    def orders(self) -> dict[str, Order]:
        """The permutation of each gap as it stands, by `Gap.name`; for `spec.learning.hardened`."""
        found = {}
        for gap in self.gaps:
            rows, columns = self.layers[gap.block, gap.reader].permutations()
            found[gap.name] = invert(rows) if gap.of_rows else columns
        return found

    @torch.no_grad()
    def shares(self) -> dict[str, NDArray[np.float32]]:
        """The shares of channels in branches as they stand, by `Gap.name`, each (G, C)."""
        found = {}
        for gap in self.gaps:
            layer = self.layers[gap.block, gap.reader]
            side = layer.rows if gap.of_rows else layer.columns
            training = side.training
            found[gap.name] = side.eval()().float().cpu().numpy()
            side.train(training)
        return found

    def harden(self, tensors: Mapping[str, Tensor], orders: Mapping[str, Order]) -> dict[str, Tensor]:
        """Tensors of the soft network by state dict names, as those of the hardened network.

        Args:
            tensors: weights, moving averages or momenta, parameters and buffers.
            orders: of the gaps, as `orders` gives them.
        """
        hard = {name: tensor for name, tensor in tensors.items() if not is_mask(name)}
        for (block, reader), layer in self.layers.items():
            prefix = f"{module_name(block)}.steps.{reader}.conv"
            rows, columns = self._permutations(block, reader, orders)
            if f"{prefix}.weight" in hard:
                hard[f"{prefix}.weight"] = diagonal_blocks(hard[f"{prefix}.weight"], rows, columns, layer.groups)
            if f"{prefix}.bias" in hard:
                hard[f"{prefix}.bias"] = hard[f"{prefix}.bias"][torch.as_tensor(rows)]
        for gap in self.gaps:
            if not gap.of_rows:
                self._move(hard, gap, torch.as_tensor(np.asarray(orders[gap.name])))
        return hard

    def _move(self, tensors: dict[str, Tensor], gap: Gap, order: Tensor) -> None:
        """Permute what stands behind the shuffle that is put in: norms, and channel-wise factors that it is moved in front of."""
        block = dict(self.architecture.blocks())[gap.block]
        first = written_at(block, gap.step)
        for step in range(first, gap.step + 1):
            prefix = f"{module_name(gap.block)}.steps.{step}."
            heads = (f"{prefix}norm.",) if step == first else (f"{prefix}norm.", f"{prefix}conv.")
            for name in [name for name in tensors if name.startswith(heads)]:
                if tensors[name].ndim:
                    tensors[name] = tensors[name][order.to(tensors[name].device)]

    def _permutations(self, block: str, reader: int, orders: Mapping[str, Order]) -> tuple[Order, Order]:
        factor = self.layers[block, reader].factor
        rows, columns = np.arange(factor.out_channels), np.arange(factor.in_channels)
        for gap in self.gaps:
            if (gap.block, gap.reader) == (block, reader):
                order = np.asarray(orders[gap.name])
                if gap.of_rows:
                    rows = invert(order)
                else:
                    columns = order
        return rows, columns


def is_mask(name: str) -> bool:
    """True for what belongs to a mask, by its name in a state dict."""
    return any(part in ("columns", "rows", "grouping") for part in name.split("."))


@torch.no_grad()
def _fill(
    soft: SoftFactorLayer,
    layer: FactorLayer,
    starts: Mapping[tuple[str, int], Order],
    place: tuple[str, int],
    keep_weights: bool,
) -> None:
    """Fresh weights as those of a dense layer (network.initialise), or the layer's own within the branches where they stand."""
    factor, (block, reader) = layer.factor, place
    if keep_weights:
        rows = invert(starts[place]) if soft.learns["rows"] else np.arange(factor.out_channels)
        columns = starts[block, reader - 1]
        wide = torch.zeros_like(soft.conv.weight)
        height, width = factor.out_channels // factor.groups, factor.branch_width
        for g in range(factor.groups):
            at = slice(g * height, (g + 1) * height)
            wide[at, g * width : (g + 1) * width] = kernel(layer.conv)[at]
        soft.conv.weight[torch.tensor(rows)[:, None], torch.tensor(columns)] = wide
        if layer.conv.bias is not None and soft.conv.bias is not None:
            soft.conv.bias[torch.tensor(rows)] = layer.conv.bias
        return
    gain = 1.0 if not factor.norm and factor.activation is None else 2.0
    generator = torch.Generator().manual_seed(7919 * (soft.stream + 1) % 2**63)
    weight = torch.randn(soft.conv.weight.shape, generator=generator)
    soft.conv.weight.copy_(weight * math.sqrt(gain / (factor.area * factor.in_channels)))
    if soft.conv.bias is not None:
        soft.conv.bias.zero_()


@torch.no_grad()
def _reorder(norm: nn.Module, order: Order) -> None:
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.ndim:
            tensor.copy_(tensor[torch.tensor(order)])


def _sources(block: Block, step: int) -> NDArray[np.int64] | None:
    """For each channel behind a step the kind of inputs that reach it, where each branch behind needs one of every kind.

    That is where the block is complementary as it stands and a factor that mixes comes before; None elsewhere.
    """
    plain = tuple(
        replace(each, shuffle=Shuffle("identity")) if index == step and isinstance(each, Factor) else each
        for index, each in enumerate(block.steps[: step + 1])
    )
    reached = path_counts(plain) > 0
    kinds = np.unique(reached, axis=0, return_inverse=True)[1].reshape(-1)
    if block.report["complementary"] == "none" or kinds.max() + 1 == len(kinds):
        return None
    found: NDArray[np.int64] = kinds.astype(np.int64)
    return found


def diagonal_blocks(weight: Tensor, rows: Order, columns: Order, groups: int) -> Tensor:
    """(O, I, k, k) to the weights of a group convolution of those rows and columns, (O, I / G, k, k)."""
    at = weight.device
    moved = weight[torch.tensor(rows, device=at)][:, torch.tensor(columns, device=at)]
    table = moved.reshape(groups, moved.shape[0] // groups, groups, moved.shape[1] // groups, *moved.shape[2:])
    each = torch.arange(groups, device=at)
    return table[each, :, each].flatten(0, 1)


def groups_of(order: Sequence[int] | Order, groups: int) -> NDArray[np.int64]:
    """The group of each channel, of a permutation whose consecutive slices are the groups."""
    found = np.empty(len(order), dtype=np.int64)
    found[np.asarray(order)] = np.repeat(np.arange(groups), len(order) // groups)
    return found


def _sums(criterion_OI: NDArray[np.float64], groups_I: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """For each row the sum over the columns of each group, (O, G)."""
    return criterion_OI @ np.eye(groups)[groups_I]
