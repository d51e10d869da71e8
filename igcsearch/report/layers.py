"""Pictures of a compression as SVG: cost of each layer before and now, and accuracy by epoch. Floor 7.

They are plain pictures with a text for each bar (on hover, and for screen readers): no script. Names come from outside and are
escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ..wording import figure, percent, short
from .html import text

Row = Mapping[str, Any]

STYLE = """
.layers text{fill:var(--muted);font-size:11px;font-variant-numeric:tabular-nums}
.layers .head{fill:var(--ink);font-size:12px;font-weight:600}
.layers .grid,.curve-picture .grid{stroke:var(--grid)}
.layers .base{stroke:var(--line)}
.layers .was{fill:var(--accent);opacity:.24}
.layers .now{fill:var(--accent)}
.layers .room{fill:var(--grid)}
.layers .kept{fill:var(--good)}
.layers .kept.all{opacity:.4}
.layers .many{fill:var(--ink);font-weight:600;font-size:10px}
.layers .mid{text-anchor:middle}
.layers .end{text-anchor:end}
.layers .hit{fill:transparent}
.layers g:hover>.hit{fill:var(--accent-soft)}
.legend i.was,.legend i.now,.legend i.kept{border-radius:3px;background:var(--accent)}
.legend i.was{opacity:.28}
.legend i.kept{background:var(--good)}
.curve-picture{display:block;width:100%;max-width:480px;overflow:visible}
.curve-picture text{fill:var(--muted);font-size:11.5px;font-variant-numeric:tabular-nums}
.curve-picture .line{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}
.curve-picture .dot{fill:var(--accent)}
.curve-picture .said{fill:var(--ink);font-weight:600}
""".strip()

_LEFT, _RIGHT = 58.0, 8.0  # of the bars: room for the scale, and behind the last
_ROOM = 978.0  # what a wide page has for all bars
_NARROW, _WIDE = 15.0, 64.0  # of a layer; with more of them than fit, the picture scrolls
_LETTER = 6.2  # a letter's width, about, at 11 px
_DIGIT = 7.0  # a digit's of a number of groups, bold
_LONGEST = 26  # letters of a name
_MACS, _TIME, _KEPT = 170.0, 96.0, 44.0  # heights


def layers_picture(rows: Sequence[Row]) -> str:
    """An `<svg>` of all layers in order: MACs before and now, groups, kept share; times too where every row has them.

    Args:
        rows: those of the record's `layers`.
    """
    pitch = max(_NARROW, min(_WIDE, _ROOM / len(rows)), _DIGIT * max(len(mark(row)) for row in rows) + 3)
    names, bands = _names([str(row["layer"]) for row in rows], pitch)
    longest = _LETTER * max(map(len, names)) + 6
    width = _LEFT + pitch * len(rows) + _RIGHT
    parts: list[str] = []
    top = 24.0
    drawn, bars = _panel(rows, "macs", "MACs", top, _MACS, pitch)
    parts += drawn
    groups = top + _MACS + 17
    parts.append(f'<text class="head" x="0" y="{groups:.0f}">{"N:M" if sparse(rows) else "groups"}</text>')
    top = groups + 14
    if timed(rows):
        top += 22
        drawn, times = _panel(rows, "ms", "time, ms", top, _TIME, pitch)
        parts += drawn
        bars = [first + second for first, second in zip(bars, times, strict=True)]
        top += _TIME + 12
    parts.append(f'<text class="head" x="0" y="{top + 12:.0f}">kept</text>')
    below = top + _KEPT + 8
    each = []
    for number, (row, bar, name) in enumerate(zip(rows, bars, names, strict=True)):
        x = _LEFT + number * pitch
        middle, style = x + pitch / 2, "mid many" if is_cut(row) else "mid"
        share = _KEPT * min(max(row["kept"], 0.0), 1.0)
        each.append(
            f'<g><title>{text(said(row))}</title><rect class="hit" x="{x:.1f}" y="0" width="{pitch:.1f}" '
            f'height="{below + longest:.0f}"/>{bar}'
            f'<text class="{style}" x="{middle:.1f}" y="{groups:.0f}">{mark(row)}</text>'
            f"{_bar('room', x, pitch, top + _KEPT, _KEPT)}"
            f"{_bar('kept' if is_cut(row) else 'kept all', x, pitch, top + _KEPT, share)}"
            f'<text class="end" transform="translate({middle + 4:.1f} {below:.0f}) rotate(-90)">{text(name)}</text></g>'
        )
    parts += each
    foot = below + longest + 8
    parts += [_band(band, _LEFT + first * pitch, _LEFT + last * pitch, foot) for band, first, last in bands]
    height = foot + (22 if bands else 0)
    return (
        f'<svg class="layers" role="img" aria-label="multiply-adds, groups and kept share of every layer" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'
    )


def curve_picture(curve: Sequence[Row]) -> str:
    """An `<svg>` of validation accuracy by epoch; nothing for fewer than two epochs that have one."""
    points = [(row["epoch"], row["validation_accuracy"]) for row in curve if _number(row.get("validation_accuracy"))]
    if len(points) < 2:
        return ""
    width, height, left, foot = 440.0, 230.0, 46.0, 26.0
    least, most = min(value for _, value in points), max(value for _, value in points)
    step = _step(max(most - least, 0.004), 4)
    low, high = max(step * math.floor(least / step), 0.0), min(step * math.ceil(most / step), 1.0)
    low = low if low < high else high - step
    first, last = points[0][0], points[-1][0]

    def at(epoch: float, value: float) -> tuple[float, float]:
        right = left + (width - left - 16) * (epoch - first) / (last - first)
        return right, 14 + (height - foot - 14) * (high - value) / (high - low)

    digits = max(0, -math.floor(math.log10(100 * step) + 1e-9))
    parts = []
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        y = at(first, value)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="0" y="{y + 4:.1f}">{percent(value, digits=digits)}</text>')
    places = [at(*point) for point in points]
    parts.append(f'<path class="line" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>')
    radius = 3.5 if len(points) <= 30 else 1.6
    for (epoch, value), (x, y) in zip(points, places, strict=True):
        about = f"epoch {epoch}: {percent(value)}"
        parts.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{text(about)}</title></circle>'
        )
    ends = (
        f'<text x="{left}" y="{height - 4:.0f}">epoch {first}</text>'
        f'<text x="{width}" y="{height - 4:.0f}" text-anchor="end">{last}</text>'
    )
    return (
        '<svg class="curve-picture" role="img" aria-label="validation accuracy by epoch" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}{ends}</svg>'
    )


def sparse(rows: Sequence[Row]) -> bool:
    """Whether layers have N:M sparsity."""
    return any(row.get("sparsity") for row in rows)


def is_cut(row: Row) -> bool:
    """Whether a layer is no longer dense."""
    return bool(row.get("sparsity")) or row["groups"] > 1


def mark(row: Row) -> str:
    """A layer's N:M, or its number of groups."""
    return str(row.get("sparsity") or row["groups"])


def timed(rows: Sequence[Row]) -> bool:
    """Whether every layer's time was measured, before and now."""
    return bool(rows) and all(_number(row.get("ms_before")) and _number(row.get("ms")) for row in rows)


def said(row: Row) -> str:
    """All of a layer in a line."""
    kernel = "×".join(map(str, row["kernel_size"]))
    time = f"; {figure(row['ms_before'])} → {figure(row['ms'])} ms" if timed([row]) else ""
    how = f"{mark(row)} sparse" if sparse([row]) else f"{mark(row)} groups"
    grouped = f"{how}, {percent(row['kept'])} kept" if is_cut(row) else "dense"
    macs = f"{short(row['macs_before'])} → {short(row['macs'])} MACs"
    return f"{row['layer']}: {row['in_channels']} → {row['out_channels']} channels, {kernel}, {grouped}; {macs}{time}"


def _panel(
    rows: Sequence[Row], key: str, title: str, top: float, height: float, pitch: float
) -> tuple[list[str], list[str]]:
    """Scale and lines of one figure's bars, and the two bars of every layer."""
    most = max(max(row[key], row[f"{key}_before"]) for row in rows) or 1.0
    step = _step(most, int(height // 32))
    width = _LEFT + pitch * len(rows)
    parts = [f'<text class="head" x="0" y="{top - 11:.0f}">{title}</text>']
    for number in range(math.floor(most / step + 1e-9) + 1):
        y = top + height * (1 - number * step / most)
        parts.append(
            f'<line class="{"grid" if number else "base"}" x1="{_LEFT}" x2="{width:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        label = short(number * step) if key == "macs" else figure(number * step)
        parts.append(f'<text class="end" x="{_LEFT - 8:.0f}" y="{y + 4:.1f}">{label}</text>')
    bars = [
        _bar("was", x, pitch, top + height, height * row[f"{key}_before"] / most)
        + _bar("now", x, pitch, top + height, height * row[key] / most)
        for x, row in ((_LEFT + number * pitch, row) for number, row in enumerate(rows))
    ]
    return parts, bars


def _bar(kind: str, x: float, pitch: float, foot: float, height: float) -> str:
    wide = 0.74 * pitch
    return (
        f'<rect class="{kind}" x="{x + (pitch - wide) / 2:.1f}" y="{foot - height:.1f}" width="{wide:.1f}" '
        f'height="{height:.1f}" rx="{min(2.0, height / 2):.1f}"/>'
    )


def _band(name: str, start: float, end: float, y: float) -> str:
    """A line under the layers of one part of the network, with its name."""
    return (
        f'<line class="base" x1="{start + 3:.1f}" x2="{end - 3:.1f}" y1="{y:.0f}" y2="{y:.0f}"/>'
        f'<text class="mid" x="{(start + end) / 2:.1f}" y="{y + 15:.0f}">{text(name)}</text>'
    )


def _names(names: list[str], pitch: float) -> tuple[list[str], list[tuple[str, int, int]]]:
    """Short names of the layers, and bands (name, first layer, one behind the last) of what many in a row begin with."""
    split = [name.split(".") for name in names]
    while len(split) > 1 and min(map(len, split)) > 1 and len({parts[0] for parts in split}) == 1:
        split = [parts[1:] for parts in split]  # what all begin with says nothing
    shown, bands, at = [], [], 0
    for band, run in groupby(split, key=lambda parts: parts[0] if len(parts) > 1 else ""):
        members = list(run)
        if band and len(members) > 1 and len(members) * pitch > _LETTER * len(band) + 8:
            bands.append((band, at, at + len(members)))
            members = [parts[1:] for parts in members]
        shown += [".".join(parts) for parts in members]
        at += len(members)
    return [name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in shown], bands


def _step(span: float, parts: int) -> float:
    """1, 2 or 5 times a power of ten: the least that goes no more than `parts` times into a span."""
    power = 10.0 ** math.floor(math.log10(span / parts))
    return float(next(times * power for times in (1, 2, 5, 10) if times * power * parts >= span * (1 - 1e-9)))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
