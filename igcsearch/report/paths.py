"""A block as a picture file: channels, branches and paths as the IGC papers draw them, and the matrix of path counts. Floor 7."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError, near
from ..files import atomic_write
from ..spec import Architecture, Block
from ..spec.conditions import path_counts
from ..wording import min_mean_max
from . import drawing, heat
from .colours import plain
from .network import most_telling, reach

_MARGIN, _HEAD, _BETWEEN = 26.0, 84.0, 18.0


class Written(NamedTuple):
    """The block that a picture shows, and what to know of it: why it is drawn as branches alone; empty where it is not."""

    block: str
    note: str


def write_paths(architecture: Architecture, path: Path, *, name: str, block: str | None = None) -> Written:
    """Draw one block of a network into an SVG file.

    Args:
        architecture: the network.
        path: the file, ending in .svg.
        name: the network's, for the title.
        block: such as stage1.block1, as `Architecture.blocks` names them; None: the most telling one.

    Raises:
        UsageError: another ending, an unknown block, or a file that cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise UsageError(
            f"picture '{path}' must end in .svg, the one format that is drawn; name it '{path.stem or path.name}.svg'"
        )
    blocks = dict(architecture.blocks())
    chosen = _chosen(blocks, block, name)
    picture = draw_paths(blocks[chosen], title=f"{name} · {chosen}")
    try:
        atomic_write(path, picture + "\n")
    except OSError as error:
        missing = f"there is no folder '{path.parent}'; make it first"
        reason = (error.strerror or error) if path.parent.is_dir() else missing
        raise UsageError(f"picture '{path}' cannot be written: {reason}") from None
    return Written(chosen, "" if drawing.is_single(blocks[chosen]) else _note(blocks, chosen))


def draw_paths(block: Block, *, title: str = "") -> str:
    """A picture file: the block's drawing, at the left, and its path counts, outputs by inputs, at the right."""
    counts_OI = path_counts(block.steps)
    channel = int((counts_OI > 0).sum(axis=0).argmax())  # the first of those that reach the most
    drawn = drawing.sketch(block, channel)
    map_ = heat.draw_heat(counts_OI)
    centre = max(drawn.top + drawn.columns / 2, map_.top + map_.side / 2)
    left = _HEAD + centre - drawn.top - drawn.columns / 2
    right = _HEAD + centre - map_.top - map_.side / 2
    about = _about(block)
    split = _MARGIN + drawn.width + _BETWEEN
    alone = "Too many lines to draw each: branches, and some lines of each shuffle."
    said = f"{reach(counts_OI, channel)}: the bold lines." if drawn.wiring else alone
    texts_wide = max(11.0 * len(title), 7.0 * len(about), 6.4 * len(said))  # at most, by their sizes
    width = max(split + map_.width + _MARGIN, 2 * _MARGIN + texts_wide)
    bottom = max(left + drawn.height, right + map_.height)
    height = bottom + 30.0
    texts = [
        f'<text class="h" x="{_MARGIN:.0f}" y="36">{_text(title)}</text>',
        f'<text x="{_MARGIN:.0f}" y="58">{_text(about)}</text>',
        f'<text class="n" x="{_MARGIN:.0f}" y="{bottom + 14:.0f}">{_text(said)}</text>',
    ]
    return plain(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}"><title>{_text(title)}</title>'
        f"<style>{_STYLE}\n{drawing.STYLE}\n{heat.STYLE}</style>"
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/><g class="head">{"".join(texts)}</g>'
        f'<g class="igc" transform="translate({_MARGIN:.1f} {left:.1f})">{drawn.body}</g>'
        f'<g class="heat" transform="translate({split:.1f} {right:.1f})">{map_.body}</g></svg>'
    )


_STYLE = """
.head{font:13px ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#1c2430}
.head .h{font-size:18px;font-weight:600}
.head .n{font-size:12px;fill:#5b6675}
""".strip()


def _text(words: str) -> str:
    """Words as XML; what a name may hold and XML may not becomes the sign for that."""
    return escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", words))


def _about(block: Block) -> str:
    """Family, widths, level, branch widths and path counts in a line."""
    report = block.report
    change = f"{block.in_channels} → " if block.in_channels != block.out_channels else ""
    widths = " · ".join(map(str, report["branch_widths"]))
    parts = [
        block.family or "block",
        f"{change}{block.out_channels} channels",
        *([f"K = {widths}"] if widths else []),
        f"level {report['complementary']}",
        f"paths {min_mean_max(report['paths'])} (min / mean / max)",
    ]
    return ", ".join(parts)


def _chosen(blocks: dict[str, Block], wanted: str | None, name: str) -> str:
    """The block of that name, or the most telling of those whose channels are drawn one by one, then of all."""
    if wanted is None:
        body = [item for item in blocks.items() if item[0] != "stem"] or list(blocks.items())
        return most_telling([item for item in body if drawing.is_single(item[1])] or body)
    if wanted not in blocks:
        known = list(blocks)
        listed = ", ".join(known) if len(known) <= 8 else f"{', '.join(known[:3])} ... {known[-1]}"
        raise UsageError(f"unknown block {wanted!r} of {name}{near(wanted, known)}; its blocks: {listed}")
    return wanted


def _note(blocks: dict[str, Block], chosen: str) -> str:
    """Why the block is drawn as branches alone, and which block of the network is not: the widest, the stem only where no other."""
    single = [name for name, block in blocks.items() if drawing.is_single(block)]
    other = max(single, key=lambda name: (name != "stem", _width(blocks[name])), default=None)
    cure = (
        f"the widest that is drawn line by line: --block {other} ({_width(blocks[other])} channels)"
        if other
        else "no block of this network is narrow enough for that"
    )
    return f"{chosen} ({_width(blocks[chosen])} channels) has too many lines to draw each: branches alone; {cure}"


def _width(block: Block) -> int:
    return max(block.in_channels, block.out_channels)
