"""Free parameters of composed matrices against the rank of their tangent space (`igcv2.md` 1.3)."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from igcsearch.spec import Factor, Shuffle, conditions
from igcsearch.spec.conditions import path_counts
from igcsearch.spec.free_parameters import free_parameters, strict_free_parameters


def on_one_width(width: int, branch_widths: Sequence[int]) -> tuple[Factor, ...]:
    return tuple(Factor(width, width, groups=width // k) for k in branch_widths)


def tangent_rank(factors: Sequence[Factor], seed: int = 0) -> int:
    """Oracle: the dimension of the set of composed kernels at random weights; only the first factor may be spatial.

    The derivative by a weight is (what it writes, carried through all behind it) x (what it reads, as made by all before it).
    """
    stream = np.random.default_rng(seed)
    kernels = []
    for factor in factors:
        kernel = np.zeros((factor.out_channels, factor.in_channels, factor.area))
        rows, columns = factor.out_channels // factor.groups, factor.in_channels // factor.groups
        for out in range(factor.out_channels):
            for channel in range(out // rows * columns, (out // rows + 1) * columns):
                kernel[out, channel] = stream.standard_normal(factor.area)
        kernels.append(kernel)
    made = np.eye(
        factors[0].in_channels * factors[0].area
    )  # what the factor reads, as rows over input channels and positions
    derivatives = []
    for position, (factor, kernel) in enumerate(zip(factors, kernels, strict=True)):
        carried = np.eye(factor.out_channels)[factor.order]
        for later, behind in zip(factors[position + 1 :], kernels[position + 1 :], strict=True):
            carried = (behind[:, :, 0] @ carried)[later.order]
        flat = kernel.reshape(factor.out_channels, -1)
        derivatives += [np.outer(carried[:, out], made[column]).ravel() for out, column in np.argwhere(flat)]
        made = (flat @ made)[factor.order]
    return int(np.linalg.matrix_rank(np.array(derivatives), tol=1e-8))


# Rule: for strict products the closed form, the count over the borders and the tangent space agree (the fact sheet's examples).
@pytest.mark.parametrize(
    "widths", [(4, 4), (2, 2, 2, 2), (2, 3, 4), (3, 3, 3), (6, 6), (2, 6), (4, 3, 2), (5,), (2, 2, 2)]
)
def test_free_parameters_of_strict_products(widths: tuple[int, ...]) -> None:
    factors = on_one_width(math.prod(widths), widths)
    assert strict_free_parameters(widths) == free_parameters(factors) == tangent_rank(factors)


@pytest.mark.parametrize("widths", [(1, 2, 4), (2, 2, 2), (1, 3, 4), (3, 3), (8,)])
def test_free_parameters_behind_a_spatial_factor(widths: tuple[int, ...]) -> None:
    channels = math.prod(widths)
    factors = (Factor(channels, channels, 3, groups=channels // widths[0]), *on_one_width(channels, widths[1:]))
    closed = strict_free_parameters(widths, areas=(9, *(1,) * (len(widths) - 1)))
    assert closed == free_parameters(factors) == tangent_rank(factors)


def test_free_parameters_are_an_upper_bound_elsewhere() -> None:
    factors = on_one_width(4, (2, 2, 2, 2))
    assert free_parameters(factors) == 20
    assert tangent_rank(factors) == 16  # all 4x4 matrices
    assert free_parameters(on_one_width(4, (4, 4))) == 16


def test_free_parameters_of_a_one_path_product_that_is_not_strict() -> None:
    orders = (5, 3, 0, 6, 4, 2, 7, 1), (0, 7, 1, 3, 4, 6, 5, 2)
    factors = (
        *(Factor(8, 8, groups=4, shuffle=Shuffle("explicit", order=order)) for order in orders),
        Factor(8, 8, groups=4),
    )
    assert conditions.paths(factors).one_path
    assert not conditions.is_strict(factors)
    assert free_parameters(factors) == tangent_rank(factors) == 32


# Rule: never below the tangent space, equal to it where no path count is above 1; on one width the formula as it is written.
# Width changes and all shuffles.
def test_free_parameters_of_random_products() -> None:
    stream = np.random.default_rng(7)
    exact = bounded = 0
    for case in range(400):
        width = first = int(stream.choice([4, 6, 8, 9]))
        factors: list[Factor] = []
        for position in range(int(stream.integers(1, 4))):
            groups = int(stream.choice([g for g in range(1, width + 1) if width % g == 0]))
            out = width if case % 2 else groups * int(stream.integers(1, max(2, 10 // groups + 1)))
            kernel = 3 if position == 0 and stream.random() < 0.3 else 1
            shuffle = Shuffle("random", seed=int(stream.integers(1000)))
            factors.append(Factor(width, out, kernel, groups=groups, shuffle=shuffle))
            width = out
        counted, dimension = free_parameters(factors), tangent_rank(factors)
        assert counted >= dimension
        if path_counts(factors).max() <= 1:
            assert counted == dimension
            exact += 1
        bounded += counted > dimension
        if case % 2:
            squares = sum(int((shared_channels(*pair) ** 2).sum()) for pair in itertools.pairwise(factors))
            assert counted == first * sum(f.area * f.branch_width for f in factors) - squares
    assert exact > 50
    assert bounded > 20


def test_free_parameters_where_a_border_is_wider_than_its_branches() -> None:
    wide = (Factor(8, 9), Factor(9, 6))  # 72 + 54 weights; all 6x8 matrices have 48 parameters
    assert free_parameters(wide) == 126 - max(9 * 8, 9 * 6)
    assert tangent_rank(wide) == 48
    inside = (Factor(2, 4), Factor(4, 4), Factor(4, 2))  # 8 + 16 + 8; writers 8 + 16, readers 16 + 8, one of each 8 + 8
    assert free_parameters(inside) == 32 - 24


def shared_channels(writer: Factor, reader: Factor) -> np.ndarray:
    """Oracle: m of shape (writer's branches, reader's branches), as a product of membership matrices."""
    written = np.kron(np.eye(writer.groups, dtype=int), np.ones((1, writer.out_channels // writer.groups), dtype=int))
    read = np.kron(np.eye(reader.groups, dtype=int), np.ones((1, reader.in_channels // reader.groups), dtype=int))
    return written[:, writer.order] @ read.T
