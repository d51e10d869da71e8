"""`igcsearch check`: every kind of network, the picture, and what it says where there is none to draw."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest


# One of each kind: lanes that need counting, the widest of all, width changes, unevenly interleaved, no group at all.
@pytest.mark.parametrize(
    "name",
    [
        "shufflenetv1_g3_200",
        "shufflenetv2_200",
        "igcv1_l450m2_ident_d20",
        "igcv2_star_c416_old_width",
        "igcv3_d_100",
        "mobilenetv1_100",
        "resnet50",
    ],
)
def test_reference_networks(name: str, igcsearch: Callable, tmp_path: Path) -> None:
    picture = tmp_path / "block.svg"
    result = igcsearch("check", name, "--json", "--plot", picture)
    assert result.status == 0, result.err
    document = json.loads(result.out)  # the picture's line is on stderr
    assert result.err.startswith(f"wrote {picture}: stage1.block")
    for block in document["blocks"]:
        ratio = block["cost_per_nat_ratio"]
        assert (ratio is None) == (block["cost_per_nat"] is None)
        if ratio is not None:
            assert ratio == pytest.approx(block["cost_per_nat"] / math.e)
            assert ratio >= 1
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_the_table_has_the_figures(igcsearch: Callable) -> None:
    result = igcsearch("check", "igcv2_fig3_l5")
    row = next(line.split() for line in result.out.splitlines() if "stage1.block1" in line)
    assert row[-2:] == ["2.73", "1.00"]  # K = 3
    assert result.err == ""
    assert "3,600 / 3,600 / 3,600" in igcsearch("check", "igcv1_l450m2_ident_d20").out


def test_the_block_that_is_named_is_drawn(igcsearch: Callable, tmp_path: Path) -> None:
    result = igcsearch("check", "igcv2_fig3_l3", "--plot", tmp_path / "wide.svg", "--block", "stage2.block2")
    assert result.status == 0
    assert "stage2.block2" in ET.parse(tmp_path / "wide.svg").getroot()[0].text
    assert "stage2.block2 of igcv2_fig3_l3" in result.err
    assert "too many lines to draw each" in result.err
    assert "stage2.block2" in result.out  # the table all the same


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "a.png"], ["a.png", ".svg"]),
        (["--plot", "nowhere/a.svg"], ["nowhere", "make it first"]),
        (["--plot", "a.svg", "--block", "stage1.blok1"], ["'stage1.blok1'", "did you mean 'stage1.block1'"]),
        (["--block", "stem"], ["--block stem", "--plot FILE.svg"]),
    ],
)
def test_pictures_that_cannot_be(
    options: list[str], words: list[str], igcsearch: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--json"]):
        result = igcsearch("check", "resnet20_cifar10", *options, *more)
        assert (result.status, result.out) == (2, "")
        assert result.err.count("\n") == 1
        assert [word for word in words if word not in result.err] == []
    assert not list(tmp_path.iterdir())


def test_drawing_is_imported_only_to_draw() -> None:
    program = (
        "import sys; sys.argv = ['igcsearch', 'check', 'resnet20_cifar10']\n"
        "from igcsearch.cli import main\n"
        "try: main()\n"
        "finally: print('imported', [n for n in ('igcsearch.report', 'torch') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "imported []" in done.stderr
