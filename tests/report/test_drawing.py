"""Drawings: what is in the SVG must be what the block has."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from igcsearch.blocks import FAMILIES, igcv2
from igcsearch.report import draw_block, draw_network
from igcsearch.report.drawing import MOST_EDGES
from igcsearch.report.wiring import wire
from igcsearch.search_spaces import get_space
from igcsearch.spec import Block, Factor, Problem, Shuffle


def lines(svg: str, style: str) -> int:
    """Straight lines in paths of exactly that class."""
    return sum(path.count("M") for path in re.findall(rf'<path class="{style}"[^>]* d="([^"]*)"', svg))


BLOCKS = [
    Block((Factor(24, 24, 3, groups=8), Factor(24, 24, groups=12), Factor(24, 24, groups=6)), shortcut=()),
    Block(
        (Factor(8, 48, groups=2), Factor(48, 48, 3, groups=48, shuffle=Shuffle("identity")), Factor(48, 8, groups=2))
    ),
    Block((Factor(1, 8, 3, norm=True),), activation="relu"),
    igcv2(16, 16, branch_widths=(4, 4), residual=True),
]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_line_of_every_factor_is_drawn(block: Block) -> None:
    # The sum over factors of in_channels * out_channels / groups, and one line a channel for each shuffle that moves any.
    svg = draw_block(block)
    assert lines(svg, "e") == sum(f.in_channels * f.out_channels // f.groups for f in block.factors)
    moved = [f for f in block.factors if list(f.order) != list(range(f.out_channels))]
    assert lines(svg, "e s") == sum(f.out_channels for f in moved)
    assert svg.count('class="d"') == sum(layer.out_width for layer in wire(block)) + block.in_channels


def test_wide_blocks_are_drawn_as_branches() -> None:
    block = Block((Factor(256, 256, 3, groups=64), Factor(256, 256, groups=16)), shortcut=())
    assert sum(f.in_channels * f.out_channels // f.groups for f in block.factors) > MOST_EDGES
    svg = draw_block(block)
    assert lines(svg, "e") == 0
    assert svg.count('class="b"') == 16  # 64 branches are too many to tell apart
    assert len(svg) < 30_000


def test_many_branches_of_a_lane_are_counted_in_their_own_box() -> None:
    svg = draw_block(FAMILIES["shufflenetv2"](24, 116, stride=2))
    assert svg.count(">58 branches</text>") == 1  # the channel-wise 3x3 of one lane, beside the 1x1 of the other
    labels = re.findall(r'y="([\d.]+)">(3×3 · K = 1|1×1 dense)</text>', svg)
    # Where two lanes do different things their labels are one above the other.
    assert [text for _, text in labels] == ["3×3 · K = 1", "1×1 dense", "1×1 dense", "3×3 · K = 1", "1×1 dense"]
    assert len({y for y, _ in labels[:4]}) == 2


def test_a_standalone_drawing_is_well_formed_and_escapes_its_title() -> None:
    svg = draw_block(BLOCKS[0], title="<script>&", standalone=True)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "<script>&"


def test_the_strip_has_a_card_for_every_block() -> None:
    class Smallest:
        def suggest_categorical(self, name: str, choices: list[object]) -> object:
            return choices[0]

        def suggest_int(self, name: str, low: int, high: int) -> int:
            return low

        def suggest_float(self, name: str, low: float, high: float) -> float:
            return low

    for name, problem in (("digits", Problem(8, 1, 10)), ("cifar", Problem(32, 3, 10))):
        architecture = get_space(name).propose(Smallest(), problem)
        svg = draw_network(architecture, {"stage1.block1": "block-1"}, standalone=True)
        assert svg.count('class="card"') == len(list(architecture.blocks()))
        assert svg.count("data-drawing=") == 1
        ET.fromstring(svg)
