"""The picture of a block: its heat map must hold the path counts, the file must be a picture by itself."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from igcsearch.blocks import FAMILIES, dense, igcv2, igcv3, network, stage
from igcsearch.errors import UsageError
from igcsearch.report import draw_paths, write_paths
from igcsearch.report.colours import hex_of
from igcsearch.report.heat import draw_heat
from igcsearch.spec import Block, Factor, Problem, Shuffle
from igcsearch.spec.conditions import path_counts

SVG = "{http://www.w3.org/2000/svg}"


def random_block(width: int, factors: int) -> Block:
    shuffles = [Shuffle("random", seed=seed) for seed in range(factors)]
    return Block(tuple(Factor(width, width, groups=width // 4, shuffle=shuffle) for shuffle in shuffles))


def painted(svg: str, shape: tuple[int, int]) -> np.ndarray:
    """The level of each cell, 0 where nothing is painted, from the rectangles of the map's paths, light levels first."""
    levels = np.zeros(shape, dtype=int)
    for level, cells in enumerate(re.findall(r'<path fill="#[0-9a-f]{6}" d="([^"]+)"', svg), 1):
        for x, y, wide, high in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h-\3z", cells):
            area = levels[int(y) : int(y) + int(high), int(x) : int(x) + int(wide)]
            assert area.size == int(wide) * int(high)
            assert not area.any(), "painted twice"
            area[:] = level
    return levels


BLOCKS = [
    igcv2(16, 16, branch_widths=(4, 4)),  # 1 everywhere
    igcv2(36, 72, branch_widths=(2, 4, 4)),
    FAMILIES["shufflenetv2"](12, 12),  # lanes: 0, 1 and 6
    FAMILIES["shufflenet"](12, 24, groups=2, stride=2),
    igcv3(16, 24, shuffle="identity"),
    random_block(32, 3),
    random_block(32, 6),  # more counts than swatches
    Block((Factor(96, 2),)),
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_map_holds_the_path_counts(block: Block) -> None:
    counts = path_counts(block.steps)
    levels = painted(draw_heat(counts).body, counts.shape)
    assert ((levels == 0) == (counts == 0)).all()
    by_count = {count: set(levels[counts == count].tolist()) for count in np.unique(counts)}
    assert all(len(found) == 1 for found in by_count.values())  # equal counts look alike
    ascending = [min(by_count[count]) for count in sorted(by_count)]
    assert ascending == sorted(ascending)  # more paths are never lighter
    if len(by_count) <= 6:
        assert len(set(ascending)) == len(by_count)


def test_the_legend_names_the_counts_and_what_has_no_path() -> None:
    few = draw_heat(np.array([[0, 1], [3, 3]])).body
    assert re.findall(r">([^<>]+)</text>", few)[-4:] == ["no path", "1", "3 paths", "1 of 4 pairs have no path (25 %)"]
    many = draw_heat(np.arange(1, 65).reshape(8, 8)).body
    assert re.findall(r">([^<>]+)</text>", many)[-3:] == ["1", "64 paths", "each of the 64 pairs has a path"]


def test_wide_matrices_are_drawn_in_squares_of_means() -> None:
    counts = np.ones((600, 300), dtype=np.int64)
    counts[:5, :5], counts[595:, :5] = 0, 9
    drawn = draw_heat(counts)
    levels = painted(drawn.body, (120, 60))  # squares of 5 channels
    assert levels[0, 0] == 0
    assert levels[-1, 0] == 2
    assert (np.delete(levels, [0, 119], axis=0) == 1).all()
    assert "a square is the mean of 5 × 5 pairs" in drawn.body
    assert "25 of 180,000 pairs have no path (0.0139 %)" in drawn.body


@pytest.mark.parametrize("block", [*BLOCKS, igcv2(512, 512, branch_widths=(8, 8, 8), residual=True)])
def test_the_picture_needs_nothing_else(block: Block) -> None:
    root = ET.fromstring(draw_paths(block, title="<a> & \x01 'b'"))
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == "<a> & \ufffd 'b'"
    background = root.find(f"{SVG}rect")
    assert background is not None
    assert (background.get("fill"), background.get("width")) == ("#fff", root.get("width"))
    svg = draw_paths(block)
    # What no browser reads (Inkscape, librsvg) knows neither variables nor oklch.
    assert not re.search(r"var\(|oklch|--h", svg)
    assert len(svg) < 200_000


def test_the_channel_that_reaches_the_most_is_traced() -> None:
    # Channels 1 to 6 go round the factors, each to one output.
    svg = draw_paths(FAMILIES["shufflenetv2"](12, 12))
    assert "Channel 7 of the input reaches 6 of 12 output channels, 6 paths each: the bold lines." in svg
    assert "level none" in svg
    assert "paths 0 / 1.54 / 6 (min / mean / max)" in svg


def test_which_block_is_drawn(tmp_path: Path) -> None:
    wide = network(Problem(32, 3, 10), 300, [stage(igcv2, 300, 300, 2, branch_widths=(15, 20))])
    assert write_paths(wide, tmp_path / "a.svg", name="wide").block == "stage1.block1"
    mixed = network(
        Problem(32, 3, 10),
        16,
        [stage(dense, 16, 16, 1), stage(igcv2, 16, 16, 2, branch_widths=(4, 4)), stage(dense, 16, 300, 1)],
    )
    assert write_paths(mixed, tmp_path / "b.svg", name="mixed") == ("stage2.block1", "")  # three factors
    written = write_paths(mixed, tmp_path / "c.SVG", name="mixed", block="stage3.block1")
    assert "stage3.block1 (300 channels) has too many lines to draw each" in written.note
    assert "--block stage1.block1 (16 channels)" in written.note
    assert "Too many lines to draw each" in (tmp_path / "c.SVG").read_text(encoding="utf-8")
    alone = write_paths(wide, tmp_path / "d.svg", name="wide", block="stage1.block2")
    assert alone.note.endswith("no block of this network is narrow enough for that")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    plain = network(Problem(8, 1, 10), 16, [stage(dense, 16, 16, 2)])
    for path, block, message in (
        ("a.png", None, r"must end in \.svg.*name it 'a\.svg'"),
        ("a", None, r"must end in \.svg.*name it 'a\.svg'"),
        ("a.svg", "stage1.blok2", r"unknown block 'stage1\.blok2' of it \(did you mean 'stage1\.block2'"),
        ("a.svg", "x", r"its blocks: stem, stage1\.block1, stage1\.block2"),
        ("no/a.svg", None, r"there is no folder '.*no'; make it first"),
    ):
        with pytest.raises(UsageError, match=message):
            write_paths(plain, tmp_path / path, name="it", block=block)
    assert not list(tmp_path.iterdir())


def test_hues_are_those_of_the_pages() -> None:
    # CSS Color 4: the primaries of sRGB in oklch.
    given = [(1, 0, 0), (0, 0, 0), (0.628, 0.2577, 29.23), (0.8664, 0.2948, 142.5), (0.452, 0.3132, 264.05)]
    assert [hex_of(*colour) for colour in given] == ["#ffffff", "#000000", "#ff0000", "#00ff00", "#0000ff"]
