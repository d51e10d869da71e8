"""The part of the page that shows the best network: strip, drawings of its different blocks, path counts, JSON. Floor 7."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..spec import Architecture, Block, GraphArchitecture
from ..spec.conditions import block_report, path_counts
from ..wording import DASH, count, min_mean_max
from .drawing import draw_block
from .facts import Facts
from .html import Html, table, text
from .strip import draw_network

_MOST_DRAWINGS = 8
_MOST_BYTES = 240_000  # of all drawings together


def network_section(facts: Facts) -> str:
    """The section on the best network; empty where there is none."""
    if facts.architecture is None or facts.best is None:
        return ""
    architecture = facts.architecture
    which = f'Candidate {facts.best["id"]}, architecture <span class="hash">{architecture.hash}</span>.'
    as_json = f"<details><summary>The architecture as JSON</summary><pre>{text(architecture.to_json(indent=1))}</pre></details>"
    if isinstance(architecture, GraphArchitecture):
        return f"""
<section>
<h2>The best network</h2>
<p class="note">{which} Its convolutions and their group counts; channels stand in the order in which they are stored.</p>
{_layers_table(architecture)}
{as_json}
</section>
"""
    drawings, figures = _figures(architecture)
    return f"""
<section>
<h2>The best network</h2>
<p class="note">{which} A card is a block,
as high as its feature map and as wide as its channels; pick one to see how its channels are joined.</p>
<div class="scroll">{draw_network(architecture, drawings)}</div>
{figures}
<h3>Paths through each block</h3>
<p class="note">How many ways lead from each input channel to each output channel. Strict: exactly one, and cut anywhere
both parts are group convolutions with dense branches; nearly: one or two; loose: at least one. Balance is parameters over
their lower bound.</p>
{_paths_table(architecture)}
{as_json}
</section>
"""


def _figures(architecture: Architecture) -> tuple[dict[str, str], str]:
    """Which drawing shows each block (equal blocks share one), and the drawings themselves, within the page's size."""
    drawn: dict[str, str] = {}
    shown: dict[str, str] = {}
    parts: list[str] = []
    size = 0
    blocks = list(architecture.blocks())
    first = most_telling(blocks)
    # The block that is shown first is drawn first, so that the limits never cost that one.
    for name, block in sorted(blocks, key=lambda item: item[0] != first):
        if block.text not in drawn and len(drawn) < _MOST_DRAWINGS:
            number = f"block-{len(drawn) + 1}"
            figure = _figure(number, name, block, name == first)
            if size + len(figure) > _MOST_BYTES:
                continue
            drawn[block.text] = number
            parts.append(figure)
            size += len(figure)
        if block.text in drawn:
            shown[name] = drawn[block.text]
    return shown, "".join(parts)


def most_telling(blocks: list[tuple[str, Block]]) -> str:
    """The block to show first: the most factors, then the most complementary, then the narrower, the earlier."""
    levels = {"strict": 0, "nearly": 1, "loose": 2, "none": 3}
    body = [item for item in blocks if item[0] != "stem"] or blocks

    def rank(item: tuple[str, Block]) -> tuple[int, int, int]:
        report = block_report(item[1])
        return (-min(len(item[1].factors), 3), levels[report["complementary"]], item[1].out_channels)

    return min(body, key=rank)[0]


def _figure(number: str, name: str, block: Block, first: bool) -> str:
    level = _level(block_report(block)["complementary"])
    change = f"{block.in_channels} → " if block.in_channels != block.out_channels else ""
    drawn = draw_block(block, title=f"the factors and shuffles of {name}")
    traced = f"{reach(path_counts(block.steps))}. Point at another channel to trace it."
    said = traced if "data-wiring" in drawn else "Too wide to show single channels."
    mark = ' data-first="1"' if first else ""
    about = f"<b>{text(name)}</b> · {text(block.family or 'block')} · {change}{block.out_channels} channels · {level}"
    return (
        f'<figure id="{number}" data-block="{text(name)}"{mark}><figcaption>{about}</figcaption>'
        f'<div class="scroll">{drawn}</div><p class="readout">{text(said)}</p></figure>'
    )


def reach(counts_OI: NDArray[np.int64], channel: int = 0) -> str:
    """What the bold lines of a drawing show; the page's script says the same of the channel under the pointer."""
    counts = counts_OI[:, channel]
    reached = counts[counts > 0]
    low, high = int(np.min(reached)), int(np.max(reached))
    each = f"{low} path{'s' if low > 1 else ''} each" if low == high else f"{low} to {high} paths each"
    number = "all" if len(reached) == len(counts) else f"{len(reached)} of"
    return f"Channel {channel + 1} of the input reaches {number} {len(counts)} output channels, {each}"


def _level(level: str) -> Html:
    return Html(f'<span class="level {text(level)}">{text(level)}</span>')


def _layers_table(graph: GraphArchitecture) -> str:
    rows = []
    for node, layer in graph.convolutions():
        made = graph.shapes[node.name]
        rows.append(
            [
                node.name,
                "×".join(map(str, layer.kernel_size)),
                f"{layer.in_channels} → {layer.out_channels}",
                f"{made[1]}×{made[2]}",
                str(layer.groups),
                count(layer.params),
                count(layer.macs(made)),
            ]
        )
    return table(["layer", "kernel", ">channels", ">map", ">groups", ">parameters", ">MACs"], rows)


def _paths_table(architecture: Architecture) -> str:
    side = architecture.image_size
    rows = []
    for name, block in architecture.blocks():
        cost, side = block.cost_at(side)
        report = block_report(block)
        rows.append(
            [
                name,
                block.family or DASH,
                f"{block.in_channels} → {block.out_channels}",
                f"{side}×{side}",
                " · ".join(str(width) for width in report["branch_widths"]),
                _level(report["complementary"]),
                min_mean_max(report["paths"]),
                DASH if report["balance"] is None else f"{report['balance']:.2f}",
                count(cost.params),
                count(cost.macs),
            ]
        )
    columns = [
        "block",
        "family",
        ">channels",
        ">map",
        "branch widths K",
        "level",
        ">paths min / mean / max",
        ">balance",
    ]
    return table([*columns, ">parameters", ">MACs"], rows)
