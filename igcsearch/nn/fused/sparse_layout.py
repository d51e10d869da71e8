"""How sparse.py holds a weight: the kept numbers, and for each one byte. Floor 3.

The byte says which term (an input channel at one tap of the kernel) a kept weight reads, counted within a block of at most 256
terms: what a tile of pixels reads of a block is laid out once for all of the block's rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Terms of a block. What a tile of pixels reads of it lies in the first cache; the more terms, the fewer pixels the tile has, but
# the less often a row's sums are stored and loaded again. Found best (docs/measurements.md), by the share that is kept, at most:
_TERMS = ((3 / 32, 144), (3 / 8, 96), (1.0, 48))
_TOGETHER = 16  # channels
_MOST_TERMS = 256  # a term's number within its block is one byte
#: What is stored of a weight, in the order in which `sparse` takes it; kernels.cpp says how it is read.
STORED = ("values", "terms", "starts", "channel_of", "tap_of", "blocks")


def store(weight: Tensor, groups: int, terms: int | None = None) -> list[Tensor]:
    """The tensors of STORED, of a weight (C_out, C_in / G, kh, kw) that is zero where nothing is kept; on its device.

    values: float32, the kept numbers, block after block, row after row of a block; terms: uint8, of each value its term within
    the block; starts: int32, where each row of a block begins in values, and where the last one ends; channel_of, tap_of: int32,
    the input channel and the tap of each term, block after block; blocks: int32 (blocks, 6): first row, end of the rows, number
    of terms, whether it is the rows' first block and their last, where its rows begin in starts.

    Args:
        terms: of a block, at most; 256 or fewer. None: what was found best.
    """
    numbers = weight.detach().float().cpu().numpy()
    if terms is None:
        terms = next(count for share, count in _TERMS if np.count_nonzero(numbers) <= share * numbers.size)
    out, each, *kernel = numbers.shape
    rows, taps = out // groups, kernel[0] * kernel[1]
    by_tap = numbers.reshape(out, each, taps).transpose(0, 2, 1)
    found: list[list[np.ndarray]] = [[] for _ in range(5)]
    blocks, kept, begins = [], 0, 0
    for cut in _cuts(groups, each, taps, min(terms, _MOST_TERMS)):
        part = by_tap[cut.group * rows : cut.end_group * rows, cut.tap : cut.end_tap, cut.channel : cut.end_channel]
        length, width = part.shape[1] * part.shape[2], part.shape[2]
        row, term = np.nonzero(part.reshape(len(part), length))
        group, place = np.arange(cut.group, cut.end_group), np.arange(length)
        found[0].append(part[row, term // width, term % width])
        found[1].append(term + row // rows * length)
        found[2].append(kept + np.concatenate([[0], np.bincount(row, minlength=len(part)).cumsum()]))
        found[3].append((group[:, None] * each + cut.channel + place % width).ravel())
        found[4].append(np.tile(cut.tap + place // width, len(group)))
        opens, ends = cut.tap + cut.channel == 0, (cut.end_tap, cut.end_channel) == (taps, each)
        blocks.append([cut.group * rows, cut.end_group * rows, len(group) * length, opens, ends, begins])
        kept += len(row)
        begins += len(part) + 1
    dtypes = (np.float32, np.uint8, np.int32, np.int32, np.int32)
    arrays = [np.concatenate(parts).astype(dtype) for parts, dtype in zip(found, dtypes, strict=True)]
    return [torch.from_numpy(array).to(weight.device) for array in (*arrays, np.array(blocks, dtype=np.int32))]


class _Cut(NamedTuple):
    """What a block holds: of each of some groups, some channels at some taps."""

    group: int
    end_group: int
    tap: int
    end_tap: int
    channel: int
    end_channel: int


def _cuts(groups: int, each: int, taps: int, most: int) -> Iterator[_Cut]:
    """Blocks of at most so many terms: several whole groups where they are small, else some channels of one at some taps.

    Taps that read the same rows of the image stand together. Sixteen channels do so too: each row of an N:M weight then has
    equally many kept weights in every block, which a processor foresees.
    """
    if each * taps * 2 <= most:
        step = most // (each * taps)
        yield from (_Cut(g, min(groups, g + step), 0, taps, 0, each) for g in range(0, groups, step))
        return
    step = -(-each // -(-each // most))
    if each >= 2 * _TOGETHER:
        step = _TOGETHER * (-(-step // _TOGETHER) if taps == 1 else 1)
    step = min(step, most)
    parts = -(-taps // (most // step))
    ends = [taps * i // parts for i in range(parts + 1)]
    for g in range(groups):
        for channel in range(0, each, step):
            yield from (_Cut(g, g + 1, a, b, channel, min(each, channel + step)) for a, b in pairwise(ends))


def dense(stored: Sequence[Tensor], shape: Sequence[int], groups: int) -> Tensor:
    """The weight of what `store` gave."""
    values, terms, starts, channel_of, tap_of, blocks = stored
    out, each, *kernel = shape
    weight = values.new_zeros(out, kernel[0] * kernel[1], each)
    first_term = 0
    for row, end, count, _, _, at in blocks.tolist():
        begins = starts[at : at + end - row + 1].long()
        rows = torch.arange(row, end, device=values.device).repeat_interleave(begins.diff())
        here = slice(int(begins[0]), int(begins[-1]))
        term = first_term + terms[here].long()
        weight[rows, tap_of[term].long(), channel_of[term].long() % each] = values[here]
        first_term += count
    return weight.view(out, *kernel, each).permute(0, 3, 1, 2).contiguous()
