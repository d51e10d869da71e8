"""SVG drawings of a block: channels as dots, branches as boxes, shuffles as lines, left to right. Floor 7.

As the IGC papers draw their blocks: a colour is a branch, so that behind a shuffle one sees each branch take a channel of
every colour. The bold lines trace the paths of one channel (`trace`); the page's script redraws them for the channel under
the pointer. Blocks too wide for single channels are drawn as branches alone. The network as a strip is in strip.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from ..spec import Block
from .colours import plain
from .wiring import Branch, Layer, factor_edges, hue, hues, trace, wire

#: Blocks with more lines inside their branches, or wider ones, are drawn as branches alone: the lines would be a grey area.
MOST_EDGES = 2600
WIDEST = 128
_SAMPLE = 48  # lines of a shuffle, and branches of a factor, that a drawing of branches alone shows
_MANY = 60  # traced lines between two columns that, drawn bold, would hide all else
_GAPS = {"factor": 148.0, "shuffle": 92.0, "wire": 70.0}
_ROOM = 960.0
_LEFT, _TOP, _LINE = 26.0, 34.0, 14.0  # _LINE: of labels, one for each lane, above the columns

#: Style of every drawing; the page holds it once, `draw_block(..., standalone=True)` inside the picture.
STYLE = """
.igc{font:12px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--igc-ink,#1c2430)}
.igc text{fill:currentColor;text-anchor:middle}
.igc .m{fill:var(--igc-muted,#5b6675);font-size:11px}
.igc .e,.igc .d,.igc .b{color:oklch(var(--igc-l,.6) .13 var(--h))}
.igc .e{fill:none;stroke:currentColor;stroke-width:1;opacity:.42}
.igc .s{stroke-width:1.3;opacity:.75}
.igc .w{fill:none;stroke:var(--igc-muted,#5b6675);stroke-width:1;opacity:.35}
.igc .d{fill:currentColor}
.igc .b{fill:currentColor;fill-opacity:.1;stroke:currentColor;stroke-opacity:.45;stroke-width:1}
.igc .n{fill:var(--igc-ink,#1c2430);fill-opacity:.035;stroke:var(--igc-ink,#1c2430);stroke-opacity:.22}
.igc .t{fill:none;stroke:var(--igc-ink,#1c2430);stroke-width:1.6;opacity:.9}
.igc .f{stroke-width:.8;opacity:.5}
.igc .r{fill:var(--igc-ink,#1c2430)}
.igc .k{fill:none;stroke:var(--igc-muted,#5b6675);stroke-width:1.4}
""".strip()


@dataclass(frozen=True)
class _Plan:
    """Where everything stands: x of each column, the top and the height shared by all columns, the dots' radius."""

    layers: tuple[Layer, ...]
    x: tuple[float, ...]
    top: float
    height: float
    radius: float
    single: bool  # channels one by one, or branches alone

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.layers[0].in_width, *(layer.out_width for layer in self.layers))

    def y(self, column: int, channel: float) -> float:
        """Centre of a channel; channel - 0.5 and channel + 0.5 are its borders."""
        return self.top + (channel + 0.5) * self.height / self.widths[column]


@dataclass(frozen=True)
class Sketch:
    """A block's drawing as SVG elements, for a page or a picture to put somewhere.

    Attributes:
        body: the elements, in a rectangle of `width` by `height`.
        top, columns: where the columns of channels begin, and how high they are.
        wiring: columns and branches as JSON, where channels are drawn one by one; None where branches alone are.
    """

    body: str
    width: float
    height: float
    top: float
    columns: float
    wiring: str | None


def draw_block(block: Block, *, title: str = "", channel: int = 0, standalone: bool = False) -> str:
    """An `<svg>` element that shows the block's factors, shuffles and shortcut.

    Args:
        block: what to draw.
        title: said to screen readers and on hover.
        channel: the input channel whose paths are drawn bold.
        standalone: a picture file of its own (namespace and style inside) rather than a part of a page.
    """
    drawn = sketch(block, channel)
    wiring = "" if drawn.wiring is None else f' data-wiring="{escape(drawn.wiring)}"'
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    style = f"<style>{STYLE}</style>" if standalone else ""
    name = f"<title>{escape(title)}</title>" if title else ""
    svg = (
        f'<svg{namespace} class="igc" role="img" width="{drawn.width:.0f}" height="{drawn.height:.0f}" '
        f'viewBox="0 0 {drawn.width:.0f} {drawn.height:.0f}"{wiring}>{name}{style}{drawn.body}</svg>'
    )
    return plain(svg) if standalone else svg


def sketch(block: Block, channel: int = 0) -> Sketch:
    """The elements of `draw_block`, with the paths of one input channel bold."""
    layers = wire(block)
    widest, single = _widest(layers), _is_single(layers)
    pitch = min(18.0, max(4.5, 380.0 / widest)) if single else 260.0 / widest
    # Long products move together a little, so that most blocks fit a page without scrolling.
    scale = min(1.0, max(0.74, _ROOM / sum(_GAPS[layer.kind] for layer in layers)))
    x = [_LEFT]
    for layer in layers:
        x.append(x[-1] + scale * _GAPS[layer.kind])
    top = _TOP + _LINE * (max(len(layer.lanes) for layer in layers) - 1)
    plan = _Plan(layers, tuple(x), top, max(widest * pitch, 96.0), min(4.2, max(1.3, pitch * 0.32)), single)
    parts = _boxes(plan) + _lines(plan) + _dots(plan) + _labels(plan)
    ending, width, height = _ending(plan, block)
    parts += ending
    wiring = None
    if single:
        parts.append(_trace_svg(plan, channel))
        wiring = json.dumps(_wiring_data(plan), separators=(",", ":"))
    return Sketch("".join(parts), width, height, top, plan.height, wiring)


def is_single(block: Block) -> bool:
    """True if the block's channels are drawn one by one, false if its branches alone are."""
    return max(block.in_channels, block.out_channels) <= WIDEST and _is_single(wire(block))


def _is_single(layers: Sequence[Layer]) -> bool:
    return _widest(layers) <= WIDEST and factor_edges(layers) <= MOST_EDGES


def _widest(layers: Sequence[Layer]) -> int:
    return max(max(layer.in_width, layer.out_width) for layer in layers)


def _boxes(plan: _Plan) -> list[str]:
    """One rounded box a branch; none where branches are single channels (the line says it all) or too many to tell apart."""
    parts = []
    for number, layer in enumerate(plan.layers):
        branches = [branch for branch in layer.branches if branch.kind == "factor"]
        position = 0
        for (kind, *_), alike in groupby(layer.branches, key=lambda b: (b.kind, len(b.ins), len(b.outs))):
            run = list(alike)
            if kind != "factor":
                continue
            if not plan.single and len(run) > _SAMPLE:
                parts += _crowd(plan, number, run)
            elif len(run[0].ins) > 1 or len(run[0].outs) > 1 or not plan.single:
                for b, branch in enumerate(run, position):
                    style = 'class="n"' if plan.single else f'class="b" style="--h:{hue(b, len(branches)):.0f}"'
                    parts.append(_box(plan, number, branch, style))
            position += len(run)
    return parts


def _crowd(plan: _Plan, number: int, run: list[Branch]) -> list[str]:
    """One box for many branches, with their number in it."""
    whole = Branch("factor", (run[0].ins[0], run[-1].ins[-1]), (run[0].outs[0], run[-1].outs[-1]))
    x = (plan.x[number] + plan.x[number + 1]) / 2
    y = (plan.y(number, sum(whole.ins) / 2) + plan.y(number + 1, sum(whole.outs) / 2)) / 2
    said = f'<text class="m" x="{x:.1f}" y="{y + 4:.1f}">{len(run):,} branches</text>'
    return [_box(plan, number, whole, 'class="n"'), said]


def _box(plan: _Plan, number: int, branch: Branch, style: str) -> str:
    """A quadrilateral over a branch's inputs and outputs (a rectangle where both columns are cut alike)."""
    margin = min(plan.radius + 4.0, 0.7 * plan.height / max(plan.widths)) if plan.single else 0.0
    left, right = plan.x[number] - margin, plan.x[number + 1] + margin
    inset = 1.0 if plan.single else 0.6
    y0, y1 = plan.y(number, min(branch.ins) - 0.5) + inset, plan.y(number, max(branch.ins) + 0.5) - inset
    y2, y3 = plan.y(number + 1, min(branch.outs) - 0.5) + inset, plan.y(number + 1, max(branch.outs) + 0.5) - inset
    if abs(y0 - y2) < 0.05 and abs(y1 - y3) < 0.05:
        radius = min(7.0, (y1 - y0) / 2)
        return f'<rect {style} x="{left:.1f}" y="{y0:.1f}" width="{right - left:.1f}" height="{y1 - y0:.1f}" rx="{radius:.1f}"/>'
    points = f"{left:.1f},{y0:.1f} {right:.1f},{y2:.1f} {right:.1f},{y3:.1f} {left:.1f},{y1:.1f}"
    return f'<polygon {style} points="{points}"/>'


def _lines(plan: _Plan) -> list[str]:
    """The lines of every layer, one path element for each kind and hue of a layer."""
    parts = []
    for number, (layer, colours) in enumerate(zip(plan.layers, hues(plan.layers), strict=False)):
        pieces: dict[tuple[str, float], list[str]] = {}
        step = 1 if plan.single else max(1, len(layer.branches) // _SAMPLE)
        for branch in layer.branches[::step]:
            if branch.kind == "factor" and not plan.single:
                continue
            for i in branch.ins:
                piece = pieces.setdefault((branch.kind, colours[i]), [])
                piece += [_line(plan, number, i, o) for o in branch.outs]
        for (kind, turn), lines in pieces.items():
            style = {"factor": "e", "shuffle": "e s", "wire": "w"}[kind]
            parts.append(f'<path class="{style}" style="--h:{turn:.0f}" d="{"".join(lines)}"/>')
    return parts


def _line(plan: _Plan, number: int, i: int, o: int) -> str:
    return f"M{plan.x[number]:.1f} {plan.y(number, i):.1f}L{plan.x[number + 1]:.1f} {plan.y(number + 1, o):.1f}"


def _dots(plan: _Plan) -> list[str]:
    """Channels: dots one by one, or a bar for a whole column."""
    if not plan.single:
        return [
            f'<rect class="n" x="{x - 3:.1f}" y="{plan.top:.1f}" width="6" height="{plan.height:.1f}" rx="3"/>'
            for x in plan.x
        ]
    return [
        f'<circle class="d" style="--h:{turn:.0f}" cx="{plan.x[column]:.1f}" cy="{plan.y(column, c):.1f}" r="{plan.radius:.1f}"/>'
        for column, colours in enumerate(hues(plan.layers))
        for c, turn in enumerate(colours)
    ]


def _labels(plan: _Plan) -> list[str]:
    """What a layer is, above it; what follows it (stride, norm, activation) and the columns' widths, below."""
    bottom = plan.top + plan.height
    parts = []
    for number, layer in enumerate(plan.layers):
        middle = (plan.x[number] + plan.x[number + 1]) / 2
        muted = "" if layer.kind == "factor" else ' class="m"'
        for line, label in enumerate(layer.lanes):
            y = plan.top - 14 - _LINE * (len(layer.lanes) - 1 - line)
            parts.append(f'<text{muted} x="{middle:.1f}" y="{y:.1f}">{escape(_short(label))}</text>')
        if layer.note:
            parts.append(f'<text class="m" x="{middle:.1f}" y="{bottom + 34:.1f}">{escape(_short(layer.note))}</text>')
    for x, width in zip(plan.x, plan.widths, strict=True):
        parts.append(f'<text class="m" x="{x:.1f}" y="{bottom + 18:.1f}">{width}</text>')
    return parts


def _short(text: str, most: int = 25) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _ending(plan: _Plan, block: Block) -> tuple[list[str], float, float]:
    """The shortcut below the block, the sum it ends in and the activation behind; with the whole drawing's size."""
    bottom = plan.top + plan.height
    right, middle = plan.x[-1] + 44.0, plan.top + plan.height / 2
    after = escape(block.activation or "")
    if block.shortcut is None:
        text = f'<text class="m" x="{right:.1f}" y="{middle + 4:.1f}">{after}</text>' if after else ""
        return [text], right + 30.0, bottom + 46.0
    low = bottom + 56.0
    steps = " · ".join(layer.label for layer in wire(Block(block.shortcut))) if block.shortcut else "identity"
    start = plan.x[0]
    line = f"M{start:.1f} {bottom + 24:.1f}V{low - 8:.1f}q0 8 8 8H{right - 8:.1f}q8 0 8 -8V{middle + 9:.1f}"
    into = f"M{plan.x[-1] + plan.radius + 8:.1f} {middle:.1f}H{right - 9:.1f}"
    plus = f"M{right - 4:.1f} {middle:.1f}h8M{right:.1f} {middle - 4:.1f}v8"
    parts = [
        f'<path class="k" d="{line}{into}{plus}"/><circle class="k" cx="{right:.1f}" cy="{middle:.1f}" r="9"/>',
        f'<text class="m" x="{(start + right) / 2:.1f}" y="{low + 16:.1f}">shortcut: {escape(_short(steps, 60))}</text>',
    ]
    if after:
        parts.append(f'<text class="m" x="{right:.1f}" y="{middle - 18:.1f}">{after}</text>')
    return parts, right + 30.0, low + 28.0


def _trace_svg(plan: _Plan, channel: int) -> str:
    """The bold lines: all paths from one input channel."""
    steps = trace(plan.layers, channel)
    few: list[str] = []
    many: list[str] = []
    for number, pairs in enumerate(steps):
        (many if len(pairs) > _MANY else few).extend(_line(plan, number, i, o) for i, o in pairs)
    ends = [(0, channel)] + [(number + 1, o) for number, pairs in enumerate(steps) for o in {o for _, o in pairs}]
    dots = "".join(
        f'<circle class="r" cx="{plan.x[column]:.1f}" cy="{plan.y(column, c):.1f}" r="{plan.radius + 0.6:.1f}"/>'
        for column, c in sorted(ends)
    )
    paths = f'<path class="t f" d="{"".join(many)}"/><path class="t" d="{"".join(few)}"/>'
    return f'<g class="trace">{paths}{dots}</g>'


def _wiring_data(plan: _Plan) -> dict[str, object]:
    """What the page's script needs to trace another channel: columns and branches."""
    return {
        "x": [round(x, 1) for x in plan.x],
        "w": plan.widths,
        "top": plan.top,
        "h": round(plan.height, 1),
        "r": round(plan.radius + 0.6, 1),
        "many": _MANY,
        "l": [[[branch.ins, branch.outs] for branch in layer.branches] for layer in plan.layers],
    }
