"""Conditions of random products against explicit dense matrices: 500 cases here, 10,000 with `-m slow`.

Each case is drawn as plain data. From it the package's steps are built, and, by code that shares nothing with igcsearch, block
matrices and permutation matrices that are multiplied out. Case n of a seed is the same everywhere: `outcome(n)` runs it alone.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from igcsearch.spec import Factor, Parallel, Shuffle, Step, conditions
from igcsearch.spec.free_parameters import free_parameters, strict_free_parameters

SEED = 20180618
PRIME = 2**28 - 57  # products of up to 128 residues add up below 2**63

Entries = Callable[[int, int], np.ndarray]


class Wiring(NamedTuple):
    """The permutation behind a step: its kind with a seed or an order."""

    kind: str
    seed: int | None = None
    order: tuple[int, ...] | None = None


class Kernel(NamedTuple):
    """A factor as plain data."""

    inputs: int
    outputs: int
    groups: int
    wiring: Wiring
    side: int = 1


class Lanes(NamedTuple):
    """Lanes side by side as plain data."""

    inputs: int
    outputs: int
    lanes: tuple[tuple[Kernel, ...], ...]
    split: tuple[int, ...] | None
    join: str
    wiring: Wiring


Plan = tuple[Kernel | Lanes, ...]

# ---------------------------------------------------------------- drawing


def draw_wiring(stream: np.random.Generator, channels: int) -> Wiring:
    kind = str(stream.choice(["interleave", "identity", "random", "explicit"], p=[0.5, 0.1, 0.2, 0.2]))
    if kind == "random":
        return Wiring(kind, seed=int(stream.integers(10_000)))
    if kind == "explicit":
        return Wiring(kind, order=tuple(map(int, stream.permutation(channels))))
    return Wiring(kind)


def draw_relabelled(stream: np.random.Generator, channels: int, groups: int, behind: int) -> Wiring:
    """An interleave with channels relabelled inside the branches in front of it and behind, and whole branches behind."""
    width = channels // groups
    renamed = np.concatenate([b * width + stream.permutation(width) for b in range(groups)])
    table = np.array([renamed[i] for i in transposed(channels, groups)]).reshape(behind, -1)
    return Wiring("explicit", order=tuple(int(c) for row in stream.permutation(table) for c in stream.permutation(row)))


def draw_chain(stream: np.random.Generator) -> Plan:
    """Any branch widths, width changes, kernels and wirings; behind one another, lanes among them now and then."""
    width = int(stream.choice([2, 3, 4, 6, 8, 9, 12, 16, 18, 24]))
    plan: list[Kernel | Lanes] = []
    lanes = stream.random() < 0.2
    wild = stream.random() < 0.5  # else interleaves alone, so that the closed form has its share
    for position in range(int(stream.integers(2, 6))):
        if lanes and stream.random() < 0.4:
            plan.append(draw_lanes(stream, width))
        else:
            groups = int(stream.choice(divisors(width)))
            steps = range(1, max(2, 36 // groups + 1))
            outputs = width if stream.random() < 0.6 else groups * int(stream.choice(steps))
            side = 3 if position == 0 or stream.random() < 0.1 else 1
            wiring = draw_wiring(stream, outputs) if wild else Wiring("interleave")
            plan.append(Kernel(width, outputs, groups, wiring, side))
        width = plan[-1].outputs
    return tuple(plan)


def draw_lanes(stream: np.random.Generator, width: int) -> Lanes:
    """Two lanes, of the whole input or of a slice each, the first of them sometimes empty; concatenated or added."""
    sliced = width > 18 or (width > 1 and stream.random() < 0.6)
    cut = int(stream.integers(1, width)) if sliced else None
    inputs = (width, width) if cut is None else (cut, width - cut)
    join = "concat" if cut is not None or width > 12 or stream.random() < 0.5 else "add"
    lanes = []
    for number, lane_width in enumerate(inputs):
        lane: list[Kernel] = []
        for _ in range(0 if number == 0 and stream.random() < 0.4 else int(stream.integers(1, 3))):
            groups = int(stream.choice(divisors(lane_width)))
            lane.append(Kernel(lane_width, lane_width, groups, draw_wiring(stream, lane_width)))
        lanes.append(tuple(lane))
    outputs = width if join == "add" else sum(inputs)
    wiring = draw_wiring(stream, outputs) if outputs % 2 == 0 else Wiring("identity")
    return Lanes(width, outputs, tuple(lanes), None if cut is None else inputs, join, wiring)


def draw_factorization(stream: np.random.Generator) -> Plan:
    """Branch widths whose product is the width: strict where wired as interleaves or relabelled ones, as most are."""
    left = width = int(stream.choice([4, 6, 8, 12, 16, 18, 24, 27, 30, 36]))
    branch_widths: list[int] = [] if stream.random() < 0.5 else [1]
    while left > 1:
        smaller = [d for d in divisors(left) if 1 < d < left]
        branch_widths.append(int(stream.choice(smaller)) if smaller and stream.random() < 0.8 else left)
        left //= branch_widths[-1]
    style = stream.choice(["interleave", "relabelled", "any"], p=[0.3, 0.5, 0.2])
    plan = []
    for position, k in enumerate(branch_widths):
        groups = width // k
        if style == "relabelled" and position + 1 < len(branch_widths):
            wiring = draw_relabelled(stream, width, groups, width // branch_widths[position + 1])
        else:
            wiring = Wiring("interleave") if style == "interleave" else draw_wiring(stream, width)
        plan.append(Kernel(width, width, groups, wiring, 3 if position == 0 else 1))
    return tuple(plan)


def draw_one_path(stream: np.random.Generator) -> Plan:
    """C = 8, K = (2, 2, 2) wired at random until one path leads from each input to each output: strict one time in five."""
    while True:
        orders = [tuple(map(int, stream.permutation(8))) for _ in range(2)]
        plan = (
            *(Kernel(8, 8, 4, Wiring("explicit", order=order)) for order in orders),
            Kernel(8, 8, 4, draw_wiring(stream, 8)),
        )
        if (multiplied(plan, ones) == 1).all():
            return plan


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


# ---------------------------------------------------------------- explicit matrices


def ones(rows: int, columns: int) -> np.ndarray:
    return np.ones((rows, columns), dtype=np.int64)


def transposed(channels: int, groups: int) -> list[int]:
    """Position j*G + g takes channel g*K + j (`igcv2.md` 1.4)."""
    width = channels // groups
    taken = [0] * channels
    for g, j in itertools.product(range(groups), range(width)):
        taken[j * groups + g] = g * width + j
    return taken


def permutation(wiring: Wiring, channels: int, groups: int) -> np.ndarray:
    """A permutation matrix: row i is 1 at the channel that position i takes."""
    taken = list(range(channels))
    if wiring.kind == "interleave":
        taken = transposed(channels, groups)
    elif wiring.kind == "random":  # channels in the order of the numbers that the seed gives them
        stream = random.Random(wiring.seed)
        taken = [channel for _, channel in sorted((stream.random(), channel) for channel in range(channels))]
    elif wiring.order is not None:
        taken = list(wiring.order)
    matrix = np.zeros((channels, channels), dtype=np.int64)
    matrix[range(channels), taken] = 1
    return matrix


def dense(step: Kernel | Lanes, entries: Entries) -> np.ndarray:
    """The matrix of one step, of shape (outputs, inputs), its blocks filled by `entries`."""
    if isinstance(step, Kernel):
        rows, columns = step.outputs // step.groups, step.inputs // step.groups
        blocks = [[np.zeros((rows, columns), dtype=np.int64)] * step.groups for _ in range(step.groups)]
        for g in range(step.groups):
            blocks[g][g] = entries(rows, columns)
        return permutation(step.wiring, step.outputs, step.groups) @ np.block(blocks)
    matrices = []
    start = 0
    for number, lane in enumerate(step.lanes):
        stop = step.inputs if step.split is None else start + step.split[number]
        slice_of_input = np.eye(step.inputs, dtype=np.int64)[start:stop]
        matrices.append(multiplied(lane, entries) @ slice_of_input if lane else slice_of_input)
        start = 0 if step.split is None else stop
    joined = np.vstack(matrices) if step.join == "concat" else sum(matrices)
    return permutation(step.wiring, step.outputs, len(step.lanes)) @ joined


def multiplied(plan: Plan, entries: Entries) -> np.ndarray:
    """The product of all steps as one matrix."""
    product = dense(plan[0], entries)
    for step in plan[1:]:
        product = dense(step, entries) @ product
    return product


def rank_of_random_weights(plan: Plan, stream: np.random.Generator) -> int:
    """Rank at random weights, exact: over the integers modulo a prime, lanes left out."""
    product = np.eye(plan[0].inputs, dtype=np.int64)
    for step in plan:
        product = (
            dense(step, lambda rows, columns: stream.integers(1, PRIME, (rows, columns))) % PRIME @ product % PRIME
        )
    rank = 0
    for column in range(product.shape[1]):
        pivots = np.flatnonzero(product[rank:, column])
        if len(pivots) == 0:
            continue
        product[[rank, rank + pivots[0]]] = product[[rank + pivots[0], rank]]
        product[rank] = product[rank] * pow(int(product[rank, column]), -1, PRIME) % PRIME
        below = product[rank + 1 :]
        below[:] = (below - np.outer(below[:, column], product[rank])) % PRIME
        rank += 1
        if rank == len(product):
            break
    return rank


def is_dense_branches(counts: np.ndarray) -> bool:
    """A group convolution with dense, equal branches of r x c: rows hold c ones, columns r, and S S^T S = r*c*S.

    (S S^T S)[o, i] counts the ways o - i' - o' - i; where S[o, i] = 1 there are at most r*c of them, all only if every row that
    has a one in column i has the ones of row o.
    """
    S = (counts > 0).astype(np.int64)
    r, c = S.sum(axis=0), S.sum(axis=1)
    equal = r.min() == r.max() and c.min() == c.max() and r[0] > 0
    return bool(equal and np.array_equal(S @ S.T @ S, r[0] * c[0] * S))


# ---------------------------------------------------------------- one case


def built(step: Kernel | Lanes) -> Step:
    """The package's step of a plan."""
    shuffle = Shuffle(step.wiring.kind, seed=step.wiring.seed, order=step.wiring.order)
    if isinstance(step, Kernel):
        return Factor(step.inputs, step.outputs, step.side, groups=step.groups, shuffle=shuffle)
    lanes = tuple(tuple(built(kernel) for kernel in lane) for lane in step.lanes)
    return Parallel(lanes, step.inputs, split=step.split, join=step.join, shuffle=shuffle)


def outcome(number: int) -> tuple[list[str], list[str]]:
    """What disagrees in a case, and what kind of case it is."""
    stream = np.random.default_rng([SEED, number])
    drawer = stream.choice(np.array([draw_chain, draw_factorization, draw_one_path]), p=[0.6, 0.34, 0.06])
    plan: Plan = drawer(stream)
    steps = tuple(built(step) for step in plan)

    counts = multiplied(plan, ones)
    smallest, largest = int(counts.min()), int(counts.max())
    parts = [part for cut in range(1, len(plan)) for part in (plan[:cut], plan[cut:])]
    grouped = [is_dense_branches(multiplied(part, ones)) for part in parts]
    one_path = smallest == largest == 1
    strict = one_path and all(grouped)
    level = "strict" if strict else "none" if smallest < 1 else "nearly" if largest <= 2 else "loose"
    expected = (level, smallest, largest, pytest.approx(counts.mean()))

    closed = conditions._interleaved(steps)
    found = conditions.paths(steps)
    weights = multiplied(
        plan, lambda rows, columns: stream.uniform(-1, 1, (rows, columns))
    )  # sums cancel with probability 0
    checks = {
        "path counts": np.array_equal(conditions.path_counts(steps), counts),
        "paths": tuple(found) == expected,
        "counted": tuple(conditions._counted(steps)) == expected,
        "closed form": closed is None or tuple(closed) == expected,
        "one path": found.one_path == one_path,
        "strict": conditions.is_strict(steps) == strict,
        "complementary": conditions.is_complementary(steps) == (smallest >= 1),
        "group convolutions": grouped == [conditions.is_group_convolution(multiplied(p, ones)) for p in parts],
        "density of random weights": np.array_equal(weights != 0, counts > 0),
    }
    kinds = [level, *["one path, not strict"] * (one_path and not strict), *["closed form"] * (closed is not None)]
    kinds += [f"{len(plan)} steps", *{step.wiring.kind for step in plan}]
    changes = len({plan[0].inputs, *(step.outputs for step in plan)}) > 1
    kinds += ["width change", *["strict transition"] * strict] * changes
    kernels = [step for step in plan if isinstance(step, Kernel)]
    if len(kernels) < len(plan):
        return [name for name, agrees in checks.items() if not agrees], [*kinds, "lanes"]

    widths = [plan[0].inputs, *(step.outputs for step in plan)]
    areas = [kernel.side**2 for kernel in kernels]
    total = sum(area * int((dense(kernel, ones) > 0).sum()) for area, kernel in zip(areas, kernels, strict=True))
    squares = sum(int((shared(*pair) ** 2).sum()) for pair in itertools.pairwise(kernels))
    checks["balance"] = conditions.balance(steps) == pytest.approx(
        total / (len(plan) * (math.prod(areas) * math.prod(widths)) ** (1 / len(plan)))
    )
    checks["bound of one-path products"] = not one_path or conditions.balance(steps) > 1 - 1e-12
    free = free_parameters(steps)
    checks["free parameters"] = (
        free == total - squares if largest <= 1 or len({*widths}) == 1 else free >= total - squares
    )
    if one_path and len({*widths}) == 1:
        branch_widths = [kernel.inputs // kernel.groups for kernel in kernels]
        checks["free parameters, closed form"] = strict_free_parameters(branch_widths, areas=areas) == free
    if strict or len({*widths}) == 1:
        kinds.append("rank")
        checks["rank of random weights"] = rank_of_random_weights(plan, stream) == min(widths)
    return [name for name, agrees in checks.items() if not agrees], kinds


def shared(writer: Kernel, reader: Kernel) -> np.ndarray:
    """m of shape (writer's branches, reader's branches): channels that two branches share."""
    written = np.repeat(np.eye(writer.groups, dtype=np.int64), writer.outputs // writer.groups, axis=0)
    read = np.repeat(np.eye(reader.groups, dtype=np.int64), reader.inputs // reader.groups, axis=0)
    return (permutation(writer.wiring, writer.outputs, writer.groups) @ written).T @ read


# Rule: no disagreement between the package and the explicit matrices; and the cases are of every kind.
@pytest.mark.parametrize("cases", [500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_conditions_agree_with_explicit_dense_products(cases: int) -> None:
    disagreements = {}
    kinds: Counter[str] = Counter()
    for number in range(cases):
        wrong, kind = outcome(number)
        kinds.update(kind)
        if wrong:
            disagreements[number] = wrong
    assert disagreements == {}
    shares = {"strict": 20, "nearly": 5, "loose": 10, "none": 10, "one path, not strict": 2, "strict transition": 2}
    shares |= {"closed form": 30, "rank": 30, "lanes": 5, "width change": 20}
    shares |= {"interleave": 20, "identity": 5, "random": 10, "explicit": 20}
    assert {kind: kinds[kind] for kind, percent in shares.items() if 100 * kinds[kind] < percent * cases} == {}


# Rule: what a group convolution is, also where branches are of unequal sizes or overlap, as parts of products seldom are.
def test_group_convolutions_among_random_supports() -> None:
    stream = np.random.default_rng(SEED)
    seen: Counter[bool] = Counter()
    for _ in range(500):
        branches = [ones(int(rows), int(columns)) for rows, columns in stream.integers(1, 3, (2, 2))]
        support = np.zeros((sum(len(b) for b in branches), sum(b.shape[1] for b in branches)), dtype=np.int64)
        row = column = 0
        for branch in branches:
            support[row : row + len(branch), column : column + branch.shape[1]] = branch
            row, column = row + len(branch), column + branch.shape[1]
        if stream.random() < 0.3:
            support[stream.integers(len(support)), stream.integers(support.shape[1])] = 1
        support = stream.permutation(stream.permutation(support), axis=1)
        expected = is_dense_branches(support)
        assert conditions.is_group_convolution(support) == expected
        seen[expected] += 1
    assert min(seen[True], seen[False]) > 50
