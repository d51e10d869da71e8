"""The matrix of path counts, outputs by inputs, as a heat map in SVG. Floor 7.

White is no path; the more paths, the darker. Wide matrices are drawn in squares of several channels, each the mean of its pairs.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..wording import count, figure
from .colours import hex_of

WIDEST = 256  # channels drawn pair by pair
_SQUARES = 128  # a side, at most, of a wider matrix
_SIDE, _CELL = 380.0, 18.0  # the map's longer side and a cell's, in pixels, at most
_GRID = 7.0  # cells of so many pixels are told apart by lines
_ROOM, _NARROW = 110.0, 36.0  # sides on which the name has room between the numbers; on which the numbers have none
_LEGEND = 6  # so many different counts have a swatch each; more are levels of a ramp
_LEVELS = 24

#: Style of the map, in a picture file of its own.
STYLE = """
.heat{font:12px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.heat text{fill:#1c2430}
.heat .m{fill:#5b6675;font-size:11px}
.heat .z{fill:#fff;stroke:#8a94a3}
.heat .g{fill:none;stroke:#fff;stroke-opacity:.7}
""".strip()


class Heat(NamedTuple):
    """SVG elements of a map with its labels and legend, in a rectangle of `width` by `height`; the cells begin at `top`."""

    body: str
    width: float
    height: float
    top: float
    side: float


def draw_heat(counts_OI: NDArray[np.int64]) -> Heat:
    """The map of a matrix of path counts of shape (out_channels, in_channels)."""
    rows, columns = counts_OI.shape
    tile = 1 if max(rows, columns) <= WIDEST else -(-max(rows, columns) // _SQUARES)
    values = counts_OI.astype(np.float64) if tile == 1 else _means(counts_OI, tile)
    levels, colours = _levels(values)
    longest = max(values.shape)
    # As high as the wiring beside it while its channels are drawn one by one; then whole pixels, so that no row is lost.
    cell = min(_CELL, _SIDE / longest) if longest <= 64 else max(2.0, _SIDE // longest)
    width, height = cell * values.shape[1], cell * values.shape[0]
    left, top = 46.0, 34.0
    parts = [
        f'<rect class="z" x="{left - 0.5:.1f}" y="{top - 0.5:.1f}" width="{width + 1:.1f}" height="{height + 1:.1f}"/>',
        f'<g transform="translate({left:.1f} {top:.1f}) scale({cell:.4f})" shape-rendering="crispEdges">',
        *_cells(levels, colours),
        "</g>",
    ]
    if cell >= _GRID:
        parts.append(f'<path class="g" d="{_grid(left, top, width, height, cell)}"/>')
    parts += _ends(left, top, width, height, rows, columns)
    legend, wide = _legend(values, colours, left, top + height + 26)
    notes = _notes(counts_OI, tile)
    parts += legend
    for number, note in enumerate(notes):
        parts.append(f'<text class="m" x="{left:.1f}" y="{top + height + 50 + 17 * number:.1f}">{note}</text>')
    text = max(5.6 * max(map(len, notes)), wide)  # pixels; an 11-pixel letter is about half as wide
    return Heat(
        "".join(parts),
        left + max(width + (140 if height < _NARROW else 84 if width < _ROOM else 0), text) + 8,
        top + height + 42 + 17 * len(notes),
        top,
        height,
    )


def _means(counts_OI: NDArray[np.int64], tile: int) -> NDArray[np.float64]:
    """Means over squares of `tile` channels each way; those at the ends may be smaller. To three digits."""
    rows, columns = (np.arange(0, size, tile) for size in counts_OI.shape)
    sums = np.add.reduceat(np.add.reduceat(counts_OI, rows, axis=0), columns, axis=1).astype(np.float64)
    heights, widths = (np.diff([*starts, size]) for starts, size in zip((rows, columns), counts_OI.shape, strict=True))
    means = sums / np.outer(heights, widths)
    return np.array([float(f"{mean:.3g}") for mean in means.flat]).reshape(means.shape)


def _levels(values: NDArray[np.float64]) -> tuple[NDArray[np.intp], list[str]]:
    """The level of each value, 0 for no path, and the levels' colours from 1 up, light to dark.

    Few different values have a level each, more are ranges of one length from the least to the most.
    """
    found = np.unique(values[values > 0])
    number = len(found) if len(found) <= _LEGEND else _LEVELS
    if number == len(found):
        levels = np.searchsorted(found, values) + 1
    else:
        shares = (values - found[0]) / (found[-1] - found[0])
        levels = 1 + np.clip((shares * number).astype(np.intp), 0, number - 1)
    shades = [n / (number - 1) for n in range(number)] if number > 1 else [0.4]
    return np.where(values > 0, levels, 0), [hex_of(0.86 - 0.5 * s, 0.07 + 0.06 * s, 262.0) for s in shades]


def _cells(levels: NDArray[np.intp], colours: list[str]) -> list[str]:
    """A path for each level; equal neighbours are one rectangle, equal rows below one another too."""
    pieces: dict[int, list[str]] = {}
    y = 0
    for row, same in groupby(levels.tolist()):
        high, x = len(list(same)), 0
        for level, run in groupby(row):
            wide = len(list(run))
            if level:
                pieces.setdefault(level, []).append(f"M{x} {y}h{wide}v{high}h-{wide}z")
            x += wide
        y += high
    return [f'<path fill="{colours[level - 1]}" d="{"".join(lines)}"/>' for level, lines in sorted(pieces.items())]


def _grid(left: float, top: float, width: float, height: float, cell: float) -> str:
    across = "".join(f"M{left:.1f} {top + cell * n:.1f}h{width:.1f}" for n in range(1, round(height / cell)))
    return across + "".join(f"M{left + cell * n:.1f} {top:.1f}v{height:.1f}" for n in range(1, round(width / cell)))


def _ends(left: float, top: float, width: float, height: float, rows: int, columns: int) -> list[str]:
    """The first and last channel of both sides, and what the sides are; beside the map where they have no room at it."""
    right, bottom, middle = left + width, top + height, top + height / 2
    start, end = 'class="m" text-anchor="start"', 'class="m" text-anchor="end"'
    turned = f'<text class="m" transform="translate({{:.1f}} {middle:.1f}) rotate(-90)" text-anchor="middle">output channel</text>'
    if width < _NARROW:
        parts = [f'<text {start} x="{left:.1f}" y="{top - 8:.1f}">input channel{_span(columns)}</text>']
    else:
        x, anchor = (left + width / 2, "middle") if width >= _ROOM else (right + 10, "start")
        parts = [
            f'<text {start} x="{left:.1f}" y="{top - 8:.1f}">1</text>',
            f'<text {end} x="{right:.1f}" y="{top - 8:.1f}">{columns}</text>',
            f'<text class="m" text-anchor="{anchor}" x="{x:.1f}" y="{top - 8:.1f}">input channel</text>',
        ]
    if height < _NARROW:
        return [*parts, f'<text {start} x="{right + 8:.1f}" y="{middle + 4:.1f}">output channel{_span(rows)}</text>']
    return [
        *parts,
        f'<text {end} x="{left - 7:.1f}" y="{top + 9:.1f}">1</text>',
        f'<text {end} x="{left - 7:.1f}" y="{bottom:.1f}">{rows}</text>',
        turned.format(left - (10 if height >= _ROOM else 34)),
    ]


def _span(channels: int) -> str:
    return "s 1 to " + str(channels) if channels > 1 else " 1"


def _legend(values: NDArray[np.float64], colours: list[str], x: float, y: float) -> tuple[list[str], float]:
    """Swatches with their counts, no path first, and how wide they are together."""
    found, start = np.unique(values[values > 0]), x
    parts = []
    if (values == 0).any():
        parts.append(f'<rect class="z" x="{x + 0.5:.1f}" y="{y - 10:.1f}" width="12" height="12"/>')
        parts.append(f'<text x="{x + 19:.1f}" y="{y:.1f}">no path</text>')
        x += 82
    if len(colours) == len(found):
        for level, value in enumerate(found.tolist(), 1):
            words = figure(value) + ("" if level < len(found) else " path" if value == 1 else " paths")
            parts.append(_swatch(colours[level - 1], x, y, 13.0))
            parts.append(f'<text x="{x + 19:.1f}" y="{y:.1f}">{words}</text>')
            x += 34 + 7 * len(words)
        return parts, x - start
    low, high = figure(found[0]), f"{figure(found[-1])} paths"
    parts.append(f'<text x="{x:.1f}" y="{y:.1f}">{low}</text>')
    x += 8 + 7 * len(low)
    parts += [_swatch(colour, x + 5 * n, y, 5.4) for n, colour in enumerate(colours)]
    x += 5 * len(colours) + 8
    parts.append(f'<text x="{x:.1f}" y="{y:.1f}">{high}</text>')
    return parts, x + 7 * len(high) - start


def _swatch(colour: str, x: float, y: float, width: float) -> str:
    return f'<rect fill="{colour}" x="{x:.1f}" y="{y - 10.5:.1f}" width="{width}" height="13"/>'


def _notes(counts_OI: NDArray[np.int64], tile: int) -> list[str]:
    """Pairs without a path, and what a square stands for."""
    none, pairs = int((counts_OI == 0).sum()), counts_OI.size
    reached = f"each of the {count(pairs)} pairs has a path"
    notes = [f"{count(none)} of {count(pairs)} pairs have no path ({100 * none / pairs:.3g} %)" if none else reached]
    return [*notes, *([f"a square is the mean of {tile} × {tile} pairs"] if tile > 1 else [])]
