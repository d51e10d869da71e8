"""Panels side by side, each of values with their spread at places along one common axis, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, BELOW, GAP = 760, 360, 64, 44, 56, 70
_TICKS = 4
_COLOURS = ("#8a8a8a", "#c2571a")


class Range(NamedTuple):
    """A value at a place, and how far it spreads to either side; value and spread are fractions."""

    x: float
    value: float
    spread: float


def ranges(panels: Sequence[tuple[str, Sequence[Range]]], x_title: str, y_title: str) -> str:
    """The picture: one panel each (title, values), with its own vertical axis in percent and the same places across."""
    places = sorted({point.x for _, points in panels for point in points})
    width, bottom = (WIDTH - LEFT - 20 - GAP * (len(panels) - 1)) / len(panels), HEIGHT - BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for position, (title, points) in enumerate(panels):
        left, colour = LEFT + position * (width + GAP), _COLOURS[position % len(_COLOURS)]
        low, high = min(p.value - p.spread for p in points), max(p.value + p.spread for p in points)
        low, high = low - 0.08 * (high - low) - 1e-4, high + 0.08 * (high - low) + 1e-4

        def across(x: float, left: float = left) -> float:
            return left + 14 + (x - places[0]) / max(places[-1] - places[0], 1e-9) * (width - 28)

        def down(y: float, low: float = low, high: float = high) -> float:
            return TOP + (high - y) / (high - low) * (bottom - TOP)

        parts.append(f'<text x="{left}" y="{TOP - 18}" fill="#222" font-size="13">{escape(title)}</text>')
        for tick in range(_TICKS + 1):
            y = low + (high - low) * tick / _TICKS
            parts.append(
                f'<line x1="{left}" x2="{left + width:.1f}" y1="{down(y):.1f}" y2="{down(y):.1f}" stroke="#e4e4e4"/>'
            )
            parts.append(
                f'<text x="{left - 8}" y="{down(y) + 4:.1f}" text-anchor="end" fill="#555">{100 * y:.1f}</text>'
            )
        for x in places:
            parts.append(f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">{x:g}</text>')
        line = " ".join(f"{across(p.x):.1f},{down(p.value):.1f}" for p in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for p in points:
            x = across(p.x)
            if p.spread:
                ends = f'y1="{down(p.value + p.spread):.1f}" y2="{down(p.value - p.spread):.1f}"'
                parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} stroke="{colour}"/>')
            said = f"{p.x:g}: {100 * p.value:.2f} ± {100 * p.spread:.2f} %"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{down(p.value):.1f}" r="4" fill="{colour}"><title>{said}</title></circle>'
            )
    titles = f"across: {escape(x_title)}; up: {escape(y_title)}"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 14}" fill="#555">{titles}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
