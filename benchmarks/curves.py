"""Lines over time as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import NamedTuple

from .scatter import BELOW, COLOURS, HEIGHT, LEFT, TOP, WIDTH

_RIGHT = 200
_TICKS = 5


class Curve(NamedTuple):
    """A named line through points (x from 0, y a fraction)."""

    name: str
    points: Sequence[tuple[float, float]]


def curves(lines: Sequence[Curve], x_title: str, y_title: str) -> str:
    """The picture; y in percent."""
    every = [point for line in lines for point in line.points]
    most, low, high = max(x for x, _ in every), min(y for _, y in every), max(y for _, y in every)
    low, high = low - 0.05 * (high - low) - 1e-4, high + 0.05 * (high - low) + 1e-4
    right, bottom = WIDTH - _RIGHT, HEIGHT - BELOW

    def across(x: float) -> float:
        return LEFT + x / most * (right - LEFT)

    def down(y: float) -> float:
        return TOP + (high - y) / (high - low) * (bottom - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in range(_TICKS + 1):
        x, y = most * tick / _TICKS, low + (high - low) * tick / _TICKS
        parts.append(f'<text x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{x:.0f}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{down(y):.1f}" y2="{down(y):.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end" fill="#555">{100 * y:.2f}</text>')
    for line, colour in zip(lines, cycle(COLOURS), strict=False):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = line.points[-1]
        parts.append(f'<text x="{right + 8}" y="{down(y) + 4:.1f}" fill="{colour}">{escape(line.name)}</text>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3" fill="{colour}"/>' for x, y in line.points]
    titles = f"across: {escape(x_title)}; up: {escape(y_title)}"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 14}" fill="#555">{titles}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
