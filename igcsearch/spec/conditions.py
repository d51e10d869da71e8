"""What a product of structured sparse kernels satisfies: path counts, level of complementarity, balance, K / ln K. Floor 0.

Conditions are of the product of *all* factors by channel support: a grouped 3x3 counts with its support, lanes side by
side add, an identity shortcut does not count (`igcv2.md` 1.5). Interleaves, width changes included, are settled in closed
form; any other product by exact counting, memoised by what it depends on (0.1 s for thousands of channels).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .block import Block, Parallel, Step, check_chain, every_factor
from .factor import Factor
from .numbers import nearest
from .steps import ChannelStep
from .theory import weight_bound

LEVELS = ("none", "loose", "nearly", "strict")


class Paths(NamedTuple):
    """Path counts of a product, and the level of its complementarity."""

    level: str
    smallest: int
    largest: int
    mean: float

    @property
    def one_path(self) -> bool:
        """True if exactly one path leads from each input to each output channel."""
        return self.smallest == self.largest == 1


#: What conditions are asked of: a block, or the steps of a product.
Product = Block | Sequence[Step]


def path_counts(product: Product) -> NDArray[np.int64]:
    """Paths from each input to each output channel over a block's product, or over steps of any kind.

    A factor with an N:M sparsity counts, here and in all conditions and costs of this module, as its dense branches: which of their
    weights stay is learned, so that each may.

    Returns:
        Integer array of shape (out_channels, in_channels); exact below 2**63.

    Raises:
        UsageError: no step, or steps whose widths do not meet.
    """
    steps = _steps(product)
    return _through(steps, np.eye(steps[0].in_channels, dtype=np.int64))


def is_group_convolution(counts: NDArray[np.int64]) -> bool:
    """True if the support of a product is that of a group convolution with dense, equally large branches.

    Args:
        counts: path counts of shape (out_channels, in_channels).
    """
    reached = counts > 0
    members: dict[bytes, list[int]] = {}
    for out, row in enumerate(np.packbits(reached, axis=1)):
        members.setdefault(row.tobytes(), []).append(out)
    patterns = reached[[outs[0] for outs in members.values()]]
    same_size = len({len(outs) for outs in members.values()}) == 1 and len(set(patterns.sum(axis=1).tolist())) == 1
    return same_size and bool((patterns.sum(axis=0) == 1).all())


def is_strict(product: Product) -> bool:
    """True if every path count is 1 and, cut anywhere, both parts are group convolutions with dense branches."""
    steps = _steps(product)
    if not bool((path_counts(steps) == 1).all()):
        return False
    cuts = range(1, len(steps))
    return all(
        is_group_convolution(path_counts(steps[:cut])) and is_group_convolution(path_counts(steps[cut:]))
        for cut in cuts
    )


def is_complementary(product: Product) -> bool:
    """True if at least one path leads from each input to each output channel: the composed kernel is dense.

    Raises:
        UsageError: no step, or steps whose widths do not meet.
    """
    return paths(product).smallest >= 1


def paths(product: Product) -> Paths:
    """Level and path counts of a block's product, or of steps.

    Raises:
        UsageError: no step, or steps whose widths do not meet.
    """
    steps = _steps(product)
    mixing = tuple(step for step in steps if not isinstance(step, ChannelStep)) or steps[:1]
    return _interleaved(mixing) or _counted(tuple(_channel_view(step) for step in mixing))


def level(product: Product) -> str:
    """The level of complementarity: strict, nearly, loose or none."""
    return str(product.report["complementary"]) if isinstance(product, Block) else paths(product).level


def balance(factors: Sequence[Factor]) -> float:
    """Weights of a product over their lower bound L*(S*C_0*prod C_l)^(1/L); 1 is balanced (`igcv2.md` 1.3).

    The bound holds for products with one path, width changes included; S is the product of the kernel areas.
    """
    return sum(factor.weights for factor in factors) / lower_bound(factors)


def lower_bound(factors: Sequence[Factor]) -> float:
    """Fewest weights of any one-path product with these kernel areas and widths: L*(S*C_0*prod C_l)^(1/L)."""
    widths = [factor.in_channels for factor in factors[:1]] + [factor.out_channels for factor in factors]
    return weight_bound(widths, [factor.area for factor in factors])


def mixing_cost(product: Product) -> float | None:
    """K / ln K of a whole product: sum C_l*S_l*K_l / sum C_l*ln(S_l*K_l), weights for each nat of what they join; least is e.

    A term S_l*K_l is what an output channel reads. On one width Q/C is the sum of the terms; the sum of their logarithms, with
    one path ln(S*C), is the best depth L*, at which every term is e (`igcv2.md` 1.3). Behind a channel-wise factor, 1x1 factors
    of one K give K / ln K. Width changes and factors inside lanes count by their output channels C_l. Channel-wise factors
    (K = 1) join no channels and are left out; None where all are. Whether channels meet is for the path counts to say.
    """
    mixing = [factor for factor in every_factor(_steps(product)) if factor.branch_width > 1]
    nats = sum(factor.out_channels * math.log(factor.area * factor.branch_width) for factor in mixing)
    return sum(factor.weights for factor in mixing) / nats if mixing else None


def block_report(block: Block) -> dict[str, Any]:
    """What `igcsearch check` says of a block, as JSON data; `Block.report` keeps it."""
    found = paths(block.steps)
    factors = block.factors
    cost = mixing_cost(block.steps)
    only_factors = factors != () and not any(isinstance(step, Parallel) for step in block.steps)
    return {
        "family": block.family,
        "channels": [block.in_channels, block.out_channels],
        "stride": block.stride,
        "branch_widths": [factor.branch_width for factor in factors],
        "complementary": found.level,
        "one_path": found.one_path,
        "paths": {"min": found.smallest, "max": found.largest, "mean": found.mean},
        "balance": balance(factors) if only_factors else None,
        "weights": sum(factor.weights for factor in factors),
        "lower_bound": lower_bound(factors) if only_factors else None,
        "cost_per_nat": cost,
        "cost_per_nat_ratio": None if cost is None else cost / math.e,
        "params": block.params,
    }


def factorizations(width: int, n: int, *, smallest: int = 2, largest: int | None = None) -> list[tuple[int, ...]]:
    """Every ordered way to write `width` as a product of `n` branch widths within [smallest, largest], in ascending order.

    Raises:
        UsageError: fewer than no factors, or a smallest width below 1.
    """
    if n < 0 or smallest < 1:
        raise UsageError(f"{n} branch widths of at least {smallest}: give a number from 0 up, and widths of at least 1")
    return list(_factorizations(width, n, smallest, width if largest is None else largest))


def need_factorization(width: int, n: int, *, smallest: int = 2, largest: int | None = None) -> list[tuple[int, ...]]:
    """`factorizations`, or an error that names the nearest widths that have one.

    Raises:
        UsageError: there is none; or as `factorizations`.
    """
    found = factorizations(width, n, smallest=smallest, largest=largest)
    if found:
        return found
    top = width if largest is None else largest
    if largest is not None and largest < smallest:
        raise UsageError(f"no branch width is within [{smallest}, {largest}]; give a largest of at least {smallest}")

    def works(other: int) -> bool:  # without a largest given, what is asked of another width is its own
        bound = other if largest is None else largest
        return bool(factorizations(other, n, smallest=smallest, largest=bound))

    widths = nearest(width, works, reach=4 * abs(width) + 16)
    hint = f"; nearest widths: {widths}" if widths != "none" else ""
    raise UsageError(f"width {width} has no factorization into {n} branch widths within [{smallest}, {top}]{hint}")


def _steps(product: Product) -> tuple[Step, ...]:
    """The steps, checked: at least one, and their widths meet."""
    if isinstance(product, Block):
        return product.steps
    if not isinstance(product, Sequence):
        raise UsageError(f"a product is a block or a sequence of steps, not {type(product).__name__}")
    steps = tuple(product)
    _check_product(steps)
    return steps


def _check_product(steps: Sequence[Step]) -> None:
    if not steps:
        raise UsageError("a product of no steps has no paths; give at least one factor")
    check_chain(tuple(steps), steps[0].in_channels, "product")


def _factorizations(width: int, n: int, smallest: int, largest: int) -> Iterator[tuple[int, ...]]:
    if n == 0:
        if width == 1:
            yield ()
        return
    for first in range(smallest, min(width, largest) + 1):
        if width % first == 0:
            for rest in _factorizations(width // first, n - 1, smallest, largest):
                yield (first, *rest)


def _interleaved(steps: tuple[Step, ...]) -> Paths | None:
    """Closed form for factors with interleaves between them: every count is floor or ceil of prod Kin / C_in.

    Proof. A factor of G branches takes position p to the positions j*G + floor(p / Kin), j < Kout. So from input p, L - 1
    factors reach (with multiplicity) the floors of an arithmetic progression that covers all positions with spacing
    C_0 / prod Kin: floor(floor(x) / K) = floor(x / K), and j*G repeats what lies in [0, G). The last factor's branch is an
    interval of Kin positions, which holds floor or ceil of Kin over the spacing of them. With prod Kin = C_in every prefix
    has an integer spacing, so that two inputs reach the same outputs or none in common, and suffixes likewise: strict.

    What permutes all inputs (shuffles behind leading factors of one channel a branch), all outputs (the last shuffle) or the
    inputs of a dense factor, which reads all alike, changes no count, so those may be of any kind.
    """
    product, leading = 1, True
    for position, step in enumerate(steps):
        if not isinstance(step, Factor):
            return None
        product *= step.branch_width
        leading = leading and step.branch_width == 1 and step.in_channels == step.out_channels
        interleaved = step.shuffle.kind in ("interleave", "learned")  # a learned one stands at interleave so far
        behind = steps[position + 1 : position + 2]
        dense_behind = any(isinstance(reader, Factor) and reader.groups == 1 for reader in behind)
        free = leading or not behind or interleaved or step.groups == 1 or dense_behind
        if not free:
            return None
    channels = steps[0].in_channels
    smallest, largest = product // channels, -(-product // channels)
    return Paths(_level(smallest, largest, product == channels), smallest, largest, product / channels)


def _level(smallest: int, largest: int, strict: bool) -> str:
    if smallest < 1:
        return "none"
    if strict:
        return "strict"
    return "nearly" if largest <= 2 else "loose"


def _channel_view(step: Step) -> Step:
    """`step` less all that its support does not depend on, so that memoised counts are shared."""
    if isinstance(step, Factor):
        return Factor(step.in_channels, step.out_channels, groups=step.groups, shuffle=step.shuffle)
    return step


@lru_cache(maxsize=16384)
def _counted(steps: tuple[Step, ...]) -> Paths:
    counts = path_counts(steps)
    smallest, largest = int(counts.min()), int(counts.max())
    strict = smallest == largest == 1 and is_strict(steps)
    return Paths(_level(smallest, largest, strict), smallest, largest, float(counts.mean()))


def _through(steps: Sequence[Step], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Paths to the channels behind `steps`, given those to the channels in front; both of shape (channels, inputs).

    Every output of a branch gets the sum over its inputs, so that no matrix of a step is ever made.
    """
    for step in steps:
        if isinstance(step, Factor):
            summed = counts.reshape(step.groups, step.branch_width, -1).sum(axis=1)
            counts = np.repeat(summed, step.out_channels // step.groups, axis=0)[step.order]
        elif isinstance(step, Parallel):
            counts = _lanes(step, counts)[step.order]
    return counts


def _lanes(step: Parallel, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    slices = [counts] * len(step.lanes) if step.split is None else np.split(counts, np.cumsum(step.split)[:-1])
    lanes = [_through(lane, given) for lane, given in zip(step.lanes, slices, strict=True)]
    return np.concatenate(lanes) if step.join == "concat" else np.sum(lanes, axis=0)
