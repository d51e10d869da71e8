"""Group counts while they are learned: 1x1 factors with all weights, under masks that close to group convolutions. Floor 3.

group_shares.py says how the masks come about; here they are put into a network, and taken out of it again.

Shape legend: O outputs, I inputs, D digits, L factors, N batch, C channels, H W map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..spec import Factor, Shuffle
from ..spec.grouping import Choice, Digits, GroupRule, expected_cost, questions
from ..spec.rounding import most_cost, rounded
from .group_shares import DigitShares, GateShares, GroupShares
from .layers import ACTIVATIONS, FactorLayer
from .learned import is_mask
from .network import StagedNetwork, block_layer, module_name
from .products import planned

_SHARPEN = 0.03  # price of the entropy of all digits, in nats, at READ


class OpenProduct(nn.Module):
    """1x1 factors with all weights under masks, with nothing between them, run as the one matrix that they are.

    (N, C_in, H, W) to (N, C_out, H, W); then the last factor's norm and activation.

    Args:
        layers: the factors' layers; the last one's norm is taken over.
        shares: of the block.
        place: of the product in the block.
        stream: of the fresh weights, of the variance that a group convolution of the masks as they stand would have.
    """

    def __init__(self, layers: Sequence[FactorLayer], shares: GroupShares, place: int, stream: int) -> None:
        super().__init__()
        self._matrices = partial(shares.matrices, place)  # the shares belong to the block
        self.activation = layers[-1].factor.activation
        self.norm = layers[-1].norm
        generator = torch.Generator().manual_seed(stream)
        with torch.no_grad():
            self.weights = nn.ParameterList(
                _fresh(layer.factor, mask, generator) for layer, mask in zip(layers, shares.masks(place), strict=True)
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The product, norm and activation."""
        with torch.autocast(x_NCHW.device.type, enabled=False):  # masks are made of logarithms
            total, *others = self._matrices(list(self.weights))
            for matrix in others:
                total = matrix @ total
        return ACTIVATIONS[self.activation](self.norm(F.conv2d(x_NCHW, total[:, :, None, None])))


class LearnedGroups:
    """The open group counts of a network in training, which becomes soft.

    Args:
        network: of an architecture with group counts to be learned; the factors are replaced in place.
        rule: how they are learned, and the budget.
        seed: of the first logits and fresh weights.

    Raises:
        UsageError: group counts that have nothing to learn (`spec.learning.reduced` takes those out).
    """

    def __init__(self, network: StagedNetwork, rule: GroupRule, *, seed: int) -> None:
        self.architecture, self.rule = network.architecture, rule
        self.questions, reasons = questions(network.architecture)
        if reasons:
            raise UsageError(f"nothing to learn: {reasons[0]}")
        self.shares: dict[str, GroupShares] = {}
        # A budget beyond what all branches as one would cost pulls no further than that.
        most, limits = most_cost(network.architecture), (rule.budget.params, rule.budget.macs)
        self._limits = [limit if limit is None else min(limit, m) for limit, m in zip(limits, most, strict=True)]
        for number, question in enumerate(self.questions):
            block, stream = block_layer(network, question.name), (seed * 1009 + number) % 2**31
            made = DigitShares if isinstance(question, Digits) else GateShares
            shares = made(question, rule, 2 * stream)  # type: ignore[arg-type]
            block.grouping = shares
            steps = block.steps
            opened = [_factor_layer(steps[place]) for place in question.places]
            if isinstance(question, Digits):
                _unshuffle(steps[0])
                steps[1] = OpenProduct(opened, shares, 1, 2 * stream + 1)
                for place in question.places[1:]:
                    steps[place] = nn.Identity()
            else:
                for layer, place in zip(opened, question.places, strict=True):
                    steps[place] = OpenProduct([layer], shares, place, 2 * stream + place)
            block.plan = planned(list(steps))
            self.shares[question.name] = shares
        self.advance(0.0)

    def parameters(self) -> list[nn.Parameter]:
        """What moves the shares: to be learned with a rate of its own, without weight decay."""
        return [shares.logits for shares in self.shares.values()]

    def advance(self, progress: float) -> None:
        """Go to a place of the soft phase, from 0 to 1."""
        for shares in self.shares.values():
            shares.advance(progress)

    def expected(self) -> tuple[Tensor, Tensor]:
        """Expected parameters and MACs of the network. Exact."""
        shares = {name: shares() for name, shares in self.shares.items()}
        params, macs = expected_cost(self.architecture, shares, self.questions)
        return params, macs

    def add_penalty_gradients(self) -> None:
        """Add the gradients of the expected cost's distance from the budget, and of entropy, to those of the loss.

        The distance counts from both sides: what the loss gains by wider branches is little in a short training, and a budget that
        is left over is lost.
        """
        if not any(shares.is_open for shares in self.shares.values()):
            return
        fills = [cost / limit for cost, limit in zip(self.expected(), self._limits, strict=True) if limit]
        terms = [self.rule.penalty * (torch.stack(fills).max() - 1).abs()] if fills else []
        terms += [_SHARPEN * shares.moved * shares.entropy() for shares in self.shares.values()]
        torch.stack(terms).sum().backward()

    def close(self) -> None:
        """Settle on the likeliest choices inside the budget; at READ of the soft phase."""
        for name, choice in self.choices().items():
            self.shares[name].close(choice)

    def values(self) -> dict[str, NDArray[np.float64]]:
        """The shares as they stand, by block, (D, L) each."""
        return {name: shares.values() for name, shares in self.shares.items()}

    def choices(self) -> dict[str, Choice]:
        """The likeliest choices inside the budget, by block."""
        return rounded(self.architecture, self.values(), self.rule.budget)

    def harden(self, tensors: Mapping[str, Tensor], choices: Mapping[str, Choice]) -> dict[str, Tensor]:
        """Tensors of the soft network by state dict names, as those of the network with these group counts.

        Args:
            tensors: weights, moving averages or momenta, parameters and buffers.
            choices: of all blocks.
        """
        hard = {name: tensor for name, tensor in tensors.items() if not is_mask(name)}
        for name, shares in self.shares.items():
            shares.harden(hard, module_name(name), tuple(choices[name]))
        return hard


def _factor_layer(layer: nn.Module) -> FactorLayer:
    assert isinstance(layer, FactorLayer)
    return layer


def _unshuffle(layer: nn.Module) -> None:
    assert isinstance(layer, FactorLayer)
    layer.factor = replace(layer.factor, shuffle=Shuffle("identity"))
    layer.shuffle = nn.Identity()


def _fresh(factor: Factor, mask_OI: Tensor, generator: torch.Generator) -> nn.Parameter:
    """Weights (O, I, 1, 1) under a mask, of the variance that network.initialise gives to a group convolution."""
    gain = 1.0 if not factor.norm and factor.activation is None else 2.0
    weight = torch.randn(*mask_OI.shape, 1, 1, generator=generator)
    deviation = (gain / mask_OI.square().sum(dim=1)).sqrt()
    return nn.Parameter(weight * deviation[:, None, None, None])
