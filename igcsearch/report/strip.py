"""SVG drawing of a whole network as a strip: one card a block, as high as its map and as wide as its channels. Floor 7.

The cards carry `data-drawing` (which of the page's block drawings shows them), so that the page's script can let the reader
pick a block; without a script the strip is a plain picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from ..spec import Architecture, Block

STYLE = """
.strip{font:12px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--igc-ink,#1c2430)}
.strip text{fill:currentColor;text-anchor:middle}
.strip .m{fill:var(--igc-muted,#5b6675);font-size:11px}
.strip .card{fill:oklch(var(--igc-l,.6) .1 var(--h) / .2);stroke:oklch(var(--igc-l,.6) .12 var(--h));stroke-width:1.2}
.strip .end{fill:var(--igc-ink,#1c2430);fill-opacity:.06;stroke:var(--igc-ink,#1c2430);stroke-opacity:.3}
.strip .k{fill:none;stroke:var(--igc-muted,#5b6675);stroke-width:1.2}
.strip g[data-drawing]{cursor:pointer}
.strip g[aria-pressed=true] .card{fill:oklch(var(--igc-l,.6) .13 var(--h) / .55);stroke-width:2}
""".strip()

#: One hue a family, in every picture of the report.
HUES = {
    **{
        "igcv2": 265,
        "butterfly": 245,
        "monarch": 230,
        "igcv1": 215,
        "shufflenetv2": 190,
        "shufflenet": 178,
        "igcv3": 160,
    },
    **{"mobilenetv2": 110, "mobilenet": 90, "xception": 70, "resnext": 55, "resnet_bottleneck": 40, "resnet_basic": 33},
    **{"dense": 25, "stem": 320},
}
_GAP, _LEAST = 7.0, 84.0  # between cards; width of a stage
_TALLEST, _MIDDLE = 132.0, 74.0  # the image's height, and where all cards are centred
_CAPTION = 164.0


def draw_network(
    architecture: Architecture, drawings: Mapping[str, str] | None = None, *, standalone: bool = False
) -> str:
    """An `<svg>` element of the network: image, stem, stages, head.

    Args:
        architecture: what to draw.
        drawings: block name to the id of the drawing that shows it, where there is one.
        standalone: a picture file of its own rather than a part of a page.
    """
    drawings = drawings or {}
    side = architecture.image_size
    scale = _TALLEST / _height(side, 1.0)
    parts, x = _image(architecture, scale)
    groups: list[tuple[str, list[tuple[str, Block]]]] = []
    for name, block in architecture.blocks():
        stage = name.partition(".")[0]
        if not groups or groups[-1][0] != stage:
            groups.append((stage, []))
        groups[-1][1].append((name, block))
    for stage, members in groups:
        drawn, x, side = _stage(stage, members, side, x, drawings, scale)
        parts += drawn
    drawn, x = _head(architecture, x)
    parts += drawn
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    style = f"<style>{STYLE}</style>" if standalone else ""
    return (
        f'<svg{namespace} class="strip" role="img" aria-label="the network from image to classes" width="{x:.0f}" '
        f'height="234" viewBox="0 0 {x:.0f} 234">{style}{"".join(parts)}</svg>'
    )


def hue(family: str) -> int:
    """The hue of a block family in degrees; families of the user's own, and networks of several, share one."""
    return HUES.get(family, 320)


def _height(side: int, scale: float) -> float:
    """Of a card: by the logarithm of the map's side, so that 224 and 7 both show."""
    return scale * (0.6 + math.log2(side + 1))


def _breadth(channels: int) -> float:
    return 9.0 + 3.2 * math.sqrt(channels)


def _arrow(x: float) -> str:
    return f'<path class="k" d="M{x:.1f} {_MIDDLE}h14m-5 -4l5 4l-5 4"/>'


def _captions(x: float, lines: list[str]) -> list[str]:
    return [
        f'<text class="{"" if row == 0 else "m"}" x="{x:.1f}" y="{_CAPTION + 17 * row}">{escape(line)}</text>'
        for row, line in enumerate(lines)
    ]


def _image(architecture: Architecture, scale: float) -> tuple[list[str], float]:
    height = _height(architecture.image_size, scale)
    top = _MIDDLE - height / 2
    frames = [
        f'<rect class="end" x="{24 + 4 * k}" y="{top + 4 * k:.1f}" width="34" height="{height - 8:.1f}" rx="3"/>'
        for k in reversed(range(min(architecture.in_channels, 3)))
    ]
    size = f"{architecture.image_size}×{architecture.image_size}"
    return [*frames, *_captions(44, ["image", f"{architecture.in_channels} × {size}"]), _arrow(84)], 106.0


def _stage(
    stage: str, members: list[tuple[str, Block]], side: int, x: float, drawings: Mapping[str, str], scale: float
) -> tuple[list[str], float, int]:
    """Cards of one stage and its caption; returns also where the next begins and the side of its map."""
    widths = [_breadth(block.out_channels) for _, block in members]
    total = sum(widths) + _GAP * (len(widths) - 1)
    room = max(total, _LEAST)
    parts, at = [], x + (room - total) / 2
    for (name, block), width in zip(members, widths, strict=True):
        _, side = block.cost_at(side)
        height = _height(side, scale)
        about = f"{name}: {block.family or 'block'}, {block.in_channels} → {block.out_channels} channels"
        pick = f' data-drawing="{escape(drawings[name])}" tabindex="0" aria-pressed="false"' if name in drawings else ""
        parts.append(
            f'<g{pick} style="--h:{hue(block.family)}"><title>{escape(about)}</title>'
            f'<rect class="card" x="{at:.1f}" y="{_MIDDLE - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4"/></g>'
        )
        at += width + _GAP
    families = list(dict.fromkeys(block.family for _, block in members if block.family))
    family = families[0] if len(families) == 1 else "mixed" if families else "block"
    label = "stem" if stage == "stem" else stage.replace("stage", "stage ")
    kind = family if stage == "stem" or len(members) == 1 else f"{len(members)} × {family}"
    last = members[-1][1]
    lines = [label, kind if kind != label else "", f"{last.out_channels} channels", f"{side}×{side}"]
    return (
        [*parts, *_captions(x + room / 2, [line for line in lines if line]), _arrow(x + room + 6)],
        x + room + 28.0,
        side,
    )


def _head(architecture: Architecture, x: float) -> tuple[list[str], float]:
    height = 24.0 + 5.0 * min(architecture.num_classes, 20)
    top = _MIDDLE - height / 2
    bar = f'<rect class="end" x="{x + 36:.1f}" y="{top:.1f}" width="12" height="{height:.1f}" rx="3"/>'
    lines = ["head", "average pool", f"linear, {architecture.features}", f"{architecture.num_classes} classes"]
    return [bar, *_captions(x + 42, lines)], x + 96.0
