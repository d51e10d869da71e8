"""How many weights of a product are free: all, less what neighbouring factors can trade without changing it. Floor 0.

The paper's letters: C width, K branch width, S kernel area, L factors. (`igcv2.md` 1.3; bounds and best counts are in theory.py.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..errors import UsageError
from .block import check_chain
from .factor import Factor


def free_parameters(factors: Sequence[Factor]) -> int:
    """Weights of a product less what neighbouring factors can trade: on one width C*sum S_l*K_l - sum m_ij^2 (`igcv2.md` 1.3).

    m_ij is the number of channels that branch i of one factor and branch j of the next share, over the shuffle between them. An
    m x m change of basis moves across that border and leaves the composed kernel as it is. At a width change m can be more than
    the branch that writes those channels reads (S*Kin) or the one that reads them writes (S*Kout), so that some changes of basis
    change no weight; then m*min(m, S*Kin) weights of the writer are traded, or m*min(m, S*Kout) of the reader: of all ways to
    take writers up to some factor and readers behind it the best.

    In general this is an upper bound on the dimension of what the product can be (C = 4, K = (2, 2, 2, 2): 20, while all 4x4
    matrices have 16). Norms, biases and activations between factors are not looked at.

    It is exact where no path count is above 1, as in strict products. Proof for 1x1 factors behind a first one of any area: then
    what the last factor W reads is rows of a product M of the others with disjoint supports inside a branch, so W M is made of
    blocks W[:, c] x M[c, :], one a channel c, and each is known up to one number a channel moves from W to M. All those are traded
    (every m_ij is 0 or 1), and scaling the rows of M leaves it a product of its factors, so that induction holds.

    Args:
        factors: in order, widths meeting; width changes and any shuffles included.

    Raises:
        UsageError: no factor, a step that is none, or widths that do not meet.
    """
    if not factors:
        raise UsageError("a product of no factors has no parameters to count; give at least one factor")
    for position, factor in enumerate(factors):
        if not isinstance(factor, Factor):
            raise UsageError(
                f"step {position + 1} is a {type(factor).__name__}: free parameters are of products of factors alone"
            )
    check_chain(tuple(factors), factors[0].in_channels, "product")
    borders = [_traded(writer, reader) for writer, reader in pairwise(factors)]
    of_writers, of_readers = [border[0] for border in borders], [border[1] for border in borders]
    traded = max(sum(of_writers[:cut]) + sum(of_readers[cut:]) for cut in range(len(borders) + 1))
    return sum(factor.kept_weights for factor in factors) - traded


def strict_free_parameters(branch_widths: Sequence[int], *, areas: Sequence[int] | None = None) -> int:
    """`free_parameters` of a strict product on one width, in closed form: C*sum S_l*K_l - C*(L - 1) (`igcv2.md` 1.3).

    Every m_ij is 0 or 1 there, C of them 1 at each border: two channels that two branches shared would be two paths.

    Args:
        branch_widths: K_1 ... K_L; C is their product.
        areas: kernel positions S_1 ... S_L, or None: all 1.

    Raises:
        UsageError: no factor, a number below 1, or not one area a factor.
    """
    areas = (1,) * len(branch_widths) if areas is None else areas
    if not branch_widths or len(areas) != len(branch_widths) or min(*branch_widths, *areas) < 1:
        raise UsageError(
            f"branch widths {list(branch_widths)} and areas {list(areas)}: give at least one factor, each with a branch width "
            f"and an area of at least 1"
        )
    terms = sum(area * width for area, width in zip(areas, branch_widths, strict=True))
    return math.prod(branch_widths) * (terms - len(branch_widths) + 1)


def _traded(writer: Factor, reader: Factor) -> tuple[int, int]:
    """Weights that the changes of basis at a border trade: of the factor in front of it, and of the one behind.

    Beside an N:M sparsity, whatever weights stay, only scalings of single channels keep the zeros: they trade one weight a channel,
    of a factor that is sure to have one there.
    """
    if writer.nm is not None or reader.nm is not None:
        channels = writer.out_channels
        in_rows = writer.nm is None or writer.sparse_axis == "in"  # each of its rows has a weight
        in_columns = reader.nm is None or reader.sparse_axis == "out"
        return channels * in_rows, channels * in_columns
    written = writer.order // (writer.out_channels // writer.groups)  # branch that writes what stands at each position
    read = np.arange(reader.in_channels) // reader.branch_width
    m = np.unique(written * reader.groups + read, return_counts=True)[1]
    inputs = writer.area * writer.branch_width
    outputs = reader.area * (reader.out_channels // reader.groups)
    return int((m * np.minimum(m, inputs)).sum()), int((m * np.minimum(m, outputs)).sum())
