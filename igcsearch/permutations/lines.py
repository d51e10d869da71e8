"""Which channels shall stand side by side, so that keeping the largest N of every M of them keeps much. Floor 0.

A *reader* has lines of scores over the same channels and cuts them into groups of M places; of each group every line keeps its N
largest scores. Take one channel out of each of many groups: what a channel adds to a group that lacks one is known exactly, so
putting them back is an assignment problem, solved exactly, and nothing is ever lost by it. Repeated with channels taken at random
that ends where no exchange gains. Several readers can have the same channels in the same order; their gains add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError

Places = NDArray[np.int64]

_TRIES = 4  # rounds without gain before a search ends, by M
_GAIN = 1e-6  # share of all scores under which nothing counts as a gain
_STARTS = 12  # searches, where each has room for so many rounds:
_QUICK = 1000
_LEAST = 16  # rounds of a search
_WORK = 1e10  # what searches compute at most, in differences of two scores
_CALL = 50_000  # what a reader takes in a round however small it is, in differences
_SORTING = 16  # what the place of a score in its group costs, in differences


class Reader:
    """Lines over channels, and the channel that stands at each place.

    Args:
        scores_CL: of each channel in each line, not negative.
        n, m: how many stay, and of how many places side by side; n < m. The last r places keep ceil(r * n / m).
    """

    def __init__(self, scores_CL: NDArray[np.float64], n: int, m: int) -> None:
        width, lines = scores_CL.shape
        self.scores_CL = np.concatenate([scores_CL, np.zeros((1, lines))])  # the last one is no channel
        self.n, self.m, self.width = n, m, width
        self.order = np.arange(width)
        self.group = self.order // m  # of each place
        rest = width % m
        self._kept = np.full(-(-width // m), n)
        if rest:
            self._kept[-1] = -(-rest * n // m)
        self._places = np.arange(len(self._kept) * m).reshape(-1, m)  # of each group; `width` and above: none

    def total(self) -> float:
        """What is kept of all scores, as channels stand."""
        members = self._channels()[self._places]
        total = 0.0
        for part, kept in zip(members, self._kept.tolist(), strict=True):
            total += float(np.partition(self.scores_CL[part], self.m - kept, axis=0)[self.m - kept :].sum())
        return total

    def gains(self, places: Places) -> NDArray[np.float64]:
        """What each channel that stands at these places would add at each of them; one place a group. (place, place)"""
        group = self.group[places]
        members = self._channels()[self._places[group]]
        others = np.arange(self.m) != (places % self.m)[:, None]
        rest = self.scores_CL[members[others].reshape(len(places), self.m - 1)]  # (place, others, lines)
        at = self.m - 1 - self._kept[group]  # ascending: where the smallest that stays stands
        rest.partition(np.unique(at), axis=1)
        least = rest[np.arange(len(places)), at]
        mine = self.scores_CL[self.order[places]]
        from scipy.spatial.distance import cdist

        # sum over lines of max(0, mine - least)
        return np.asarray((mine.sum(axis=1)[:, None] - least.sum(axis=1) + cdist(mine, least, "cityblock")) / 2)

    def _channels(self) -> Places:
        return np.concatenate([self.order, np.full(self._places.size - self.width, self.width)])


@dataclass(frozen=True)
class Block:
    """Channels that can change places.

    Args:
        count: how many.
        sides: readers, and of each the place of every channel (count,) in their first order.
    """

    count: int
    sides: Sequence[tuple[Reader, Places]]


def rounds_for(blocks: Sequence[Block]) -> int:
    """Rounds of each of some blocks that take about half a minute together at most; counted, not timed."""
    work = 0
    for block in blocks:
        for reader, places in block.sides:
            groups = len(set(reader.group[places].tolist()))
            work += _CALL + reader.scores_CL.shape[1] * groups * (groups + _SORTING * reader.m)
    return max(_LEAST, int(_WORK / max(work, 1)))


def arrange(block: Block, rng: np.random.Generator, *, rounds: int | None = None, starts: int | None = None) -> Places:
    """Put a block's channels where the readers keep much, never less than as they stand; (count,) the one at each place.

    The readers' orders are changed; what other blocks have in them stays.

    Args:
        rounds: of all searches together, at most; None: as `rounds_for`.
        starts: searches, the first from where channels stand; None: as many as are quick, 12 at most.
    """
    readers = list({id(reader): reader for reader, _ in block.sides}.values())
    cells = np.stack([_numbered(reader, readers) + reader.group[places] for reader, places in block.sides], axis=1)
    if rounds is None:
        rounds = rounds_for([block])
    if starts is None:
        starts = max(1, min(_STARTS, rounds // _QUICK))
    whole = sum(float(reader.scores_CL.sum()) for reader in readers)
    best: tuple[float, Places, list[Places]] | None = None
    first = [reader.order.copy() for reader in readers]
    for start in range(starts):
        for reader, order in zip(readers, first, strict=True):
            reader.order = order.copy()
        held = np.arange(block.count)
        if start:
            mixed = rng.permutation(block.count)
            _move(block, held, np.arange(block.count), mixed)
        _improve(block, held, cells, whole, max(rounds // starts, _LEAST), rng)
        total = sum(reader.total() for reader in readers)
        if best is None or total > best[0]:
            best = (total, held, [reader.order for reader in readers])
    assert best is not None
    for reader, order in zip(readers, best[2], strict=True):
        reader.order = order
    return best[1]


def solve_lines(scores: ArrayLike, n: int, m: int, *, seed: int = 0, starts: int | None = None) -> Places:
    """The order of the columns of a matrix, (lines, channels), that keeps much of it where every line keeps N of every M.

    512 x 512 takes some seconds, 64 x 64 a tenth; the same input and seed give the same order on every machine.

    Raises:
        UsageError: scores that are no matrix, negative or no numbers; not 1 <= n <= m.
    """
    matrix = checked_scores(scores)
    if not 1 <= n <= m:
        raise UsageError(f"{n} of {m}: N must be at least 1 and at most M")
    width = matrix.shape[1]
    if n == m or width <= m:
        return np.arange(width)
    reader = Reader(np.ascontiguousarray(matrix.T), n, m)
    arrange(Block(width, [(reader, np.arange(width))]), np.random.default_rng(seed), starts=starts)
    return reader.order


def kept_of_lines(scores: ArrayLike, n: int, m: int, order: ArrayLike | None = None) -> float:
    """The share of a matrix's sum that is kept, its columns in that order; 1 for a matrix of zeros."""
    matrix = checked_scores(scores)
    if n == m or not matrix.sum():
        return 1.0
    reader = Reader(np.ascontiguousarray(matrix.T), n, m)
    if order is not None:
        reader.order = np.asarray(order)
    return reader.total() / float(matrix.sum())


def checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """The scores as a matrix (lines, channels) of float64; UsageError for what is none, or has entries below 0 or not finite."""
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise UsageError(
            f"scores of shape {matrix.shape} were given; they must be a matrix, (lines, channels), not empty"
        )
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise UsageError("the scores have entries that are negative or no numbers; give magnitudes")
    return matrix


def _numbered(reader: Reader, readers: Sequence[Reader]) -> int:
    """What its groups are counted from, so that those of all readers differ."""
    return sum(len(other._kept) for other in readers[: [id(each) for each in readers].index(id(reader))])


def _improve(block: Block, held: Places, cells: Places, whole: float, rounds: int, rng: np.random.Generator) -> None:
    """Take channels out and put them back until nothing gains."""
    from scipy.optimize import linear_sum_assignment

    tries, without = _TRIES * max(reader.m for reader, _ in block.sides), 0
    for _ in range(rounds):
        slots = _apart(cells, rng)
        if len(slots) < 2:
            return
        gains = np.zeros((len(slots), len(slots)))
        for reader, places in block.sides:
            gains += reader.gains(places[slots])
        rows, columns = linear_sum_assignment(gains, maximize=True)
        gained = float(gains[rows, columns].sum() - np.trace(gains))
        if gained > 0:
            _move(block, held, slots[columns], slots[rows])
        without = 0 if gained > _GAIN * whole else without + 1
        if without == tries:
            return


def _move(block: Block, held: Places, to: Places, come: Places) -> None:
    """What stands at the places `come` goes to the places `to`."""
    held[to] = held[come]
    for reader, places in block.sides:
        reader.order[places[to]] = reader.order[places[come]]


def _apart(cells: Places, rng: np.random.Generator) -> Places:
    """Slots at random, of which no two (and no two sides of one) are in the same group of a reader."""
    mixed = rng.permutation(len(cells))
    if cells.shape[1] == 1:
        return mixed[np.unique(cells[mixed, 0], return_index=True)[1]]
    taken: set[int] = set()
    chosen = []
    for slot, row in zip(mixed.tolist(), cells[mixed].tolist(), strict=True):
        if len(set(row)) == len(row) and taken.isdisjoint(row):
            taken.update(row)
            chosen.append(slot)
    return np.array(chosen, dtype=np.int64)
