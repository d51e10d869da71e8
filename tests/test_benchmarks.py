"""The benchmarks of execution: each command with a tiny configuration, the rows that other tools read, and what they compare."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from igcsearch.blocks import igcv1, igcv2, igcv3
from igcsearch.blocks.references import REFERENCES
from igcsearch.blocks.references.igcv2 import LAYOUT
from igcsearch.nn.network import BlockLayer
from igcsearch.spec import Problem

BLOCK_KEYS = {"channels", "branch_widths", "size", "batch", "device", "dtype", "pass"}
BLOCK_KEYS |= {"stock_ms", "dense_ms", "planned_ms", "plan", "copy_ms"}
NETWORK_KEYS = {"name", "macs", "params", "batch", "device", "dtype", "images_per_s", "ms"}


def command(root: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    called = [sys.executable, "-m", f"benchmarks.{name}", "--threads", "1", "--seconds", "0.01", *options]
    return subprocess.run(called, cwd=root, capture_output=True, text=True)


def rows_of(root: Path, folder: Path, name: str, *options: str) -> tuple[list[dict[str, Any]], str]:
    done = command(root, name, "--json", str(folder / "rows.json"), *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "rows.json").read_text())
    assert found["facts"]["threads"] == 1
    return found["rows"], done.stdout


# Rule: rows have the keys that the contract names, times are positive, and what is compared gives the same numbers.
@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_blocks(root: Path, tmp_path: Path, dtype: str, close: float) -> None:
    picture = tmp_path / "plot.svg"
    options = ["--case", "16:4,4:5:2", "--case", "24:2,3,4:3:1", "--backward", "--plot", str(picture), "--dtype", dtype]
    rows, said = rows_of(root, tmp_path, "blocks", *options)
    assert [row["pass"] for row in rows] == ["forward"] * 2 + ["forward+backward"] * 2
    assert [row["branch_widths"] for row in rows[:2]] == [[4, 4], [2, 3, 4]]
    for row in rows:
        assert set(row) >= BLOCK_KEYS
        assert min(row[key] for key in row if key.endswith("_ms") and isinstance(row[key], float)) > 0
        assert row["difference"] < close
    assert "over 15%" in said
    assert len(list(ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}circle"))) == 3 * len(rows)


def test_networks(root: Path, tmp_path: Path) -> None:
    rows, said = rows_of(
        root, tmp_path, "networks", "--quick", "--size", "32", "--batch", "2", "--plot", str(tmp_path / "p.svg")
    )
    ElementTree.parse(tmp_path / "p.svg")
    for row in rows:
        assert set(row) >= NETWORK_KEYS
        assert row["images_per_s"] == pytest.approx(2000 / row["ms"])
    by_network = {row["name"]: row for row in rows}
    # at equal multiply-adds: never more than what it is held against
    assert by_network["igcv2_x1"]["macs"] <= by_network["mobilenet_v1_x0.5"]["macs"]
    kinds = {name: {row["execution"] for row in rows if row["name"] == name} for name in by_network}
    assert kinds["mobilenet_v1_x0.5"] == kinds["igcv2_x1"] == {"stock", "planned"}
    assert kinds["shufflenet_v2_x1_0"] == {"stock", "folded"}
    assert "times the images a second" in said


# Rule: that something else kept the machine busy is said once, and stands in the file beside the rows, which stay as they are.
def test_a_busy_machine_is_noted(load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    options, how = load("options"), {"threads": 1}
    rows: list[dict[str, Any]] = [{"cores_busy_elsewhere": None}, {"cores_busy_elsewhere": 0.02}]
    options.note_busy(rows, how)
    assert (how, capsys.readouterr().err) == ({"threads": 1}, "")
    rows.append({"cores_busy_elsewhere": 1.5})
    options.note_busy(rows, how)
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("caveat: something else kept the machine busy")
    assert "1.50 of" in said.err
    rows.append({"cores_busy_elsewhere": 1.75})
    options.note_busy(rows, how)
    assert capsys.readouterr().err == ""
    assert how["cores_busy_elsewhere"] == 1.75
    assert how["caveat"] in said.err
    assert all(set(row) == {"cores_busy_elsewhere"} for row in rows)


# Rule: what cannot be measured is said in one line.
@pytest.mark.parametrize("options", [["--case", "16:5,4:5:2"], ["--case", "16"], ["--threads", "0"]])
def test_bad_options(root: Path, options: list[str]) -> None:
    done = command(root, "blocks", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# Rule: networks are as near below a number of multiply-adds as their widths allow.
def test_layouts(load: Callable[[str], ModuleType]) -> None:
    layouts, problem = load("layouts"), Problem(224, 3, 1000)
    assert layouts.igcv3_below(problem, 314_000_000)[1] == REFERENCES["igcv3_d_100"].architecture
    name, narrow = layouts.igcv3_below(problem, 149_000_000)
    assert (name, narrow.params, narrow.macs) == ("igcv3_d_x0.625", 2_268_760, 134_453_376)
    name, found = layouts.igcv2_below(problem, 149_000_000)
    assert name == "igcv2_x1.25"
    assert 0.9 * 149e6 < found.macs <= 149e6
    name, grouped = layouts.igcv2_grouped_below(problem, 149_000_000)
    assert 0.9 * 149e6 < grouped.macs <= 149e6
    for network in (found, grouped):
        assert all(
            block.report["complementary"] == "strict" for _, block in network.blocks() if block.family == "igcv2"
        )


# Rule: the dense block of IGCV1 and IGCV2 is a separable convolution of the same widths, that of IGCV3 MobileNet V2's.
def test_dense_blocks(load: Callable[[str], ModuleType]) -> None:
    cases = load("cases")

    def shape(block: Any) -> list[tuple[int, ...]]:
        return [(f.in_channels, f.out_channels, f.kernel_size, f.groups, f.stride) for f in cases.dense(block).factors]

    assert shape(cases.product(64, 8, 8)) == [(64, 64, 1, 1, 1)]
    separable = [(16, 16, 3, 16, 2), (16, 32, 1, 1, 1)]
    assert shape(igcv2(16, 32, branch_widths=(4, 4), stride=2)) == separable
    assert shape(igcv1(16, 32, primary_groups=4, stride=2)) == separable
    assert shape(igcv3(16, 32, stride=2)) == [(16, 96, 1, 1, 1), (96, 96, 3, 96, 2), (96, 32, 1, 1, 1)]


# Rule: the stock block computes what the network's own plain execution computes, in both layouts, folded or not.
@pytest.mark.parametrize("folded", [True, False])
def test_stock_blocks(load: Callable[[str], ModuleType], folded: bool) -> None:
    blocks, cases = load("blocks"), load("cases")
    x = torch.randn(2, 24, 5, 5)
    for block in (
        cases.product(24, 4, 6),
        igcv2(24, 24, branch_widths=(4, 6), residual=True, shuffle="random", activation="hardswish"),
        igcv3(24, 24),
        igcv1(24, 48, primary_groups=6, stride=2, residual=True),
    ):
        layer = blocks.build(block, torch.device("cpu"))
        for norm in (module for module in layer.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 2)
        layer.eval().execution = "plain"
        with torch.inference_mode():
            wanted = layer(x)
            stock = blocks.Stock(layer, folded).eval()
            for layout in (torch.contiguous_format, torch.channels_last):
                found = stock(x.contiguous(memory_format=layout))
                assert found.is_contiguous(memory_format=layout)
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


# Rule: sampled blocks are the same every time, all different, and each can be measured.
def test_sampled(load: Callable[[str], ModuleType]) -> None:
    cases = load("cases")
    found = cases.sampled(8)
    assert [case.block.text for case in found] == [case.block.text for case in cases.sampled(8)]
    assert len({case.block.text for case in found}) == 8
    for case in found:
        assert BlockLayer(cases.dense(case.block)).steps
        assert case.size >= 1
        assert case.label


def test_permutations(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.permutations", "--json", str(tmp_path / "rows.json"), "--seeds", "2"]
    command += ["--sizes", "16", "--groups", "4", "--kinds", "lognormal,planted", "--methods", "best,strucspars"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["alt x8", "best", "strucspars"] * 2
    assert all(0 < row["kept"] <= 1 + 1e-9 and row["seconds"] >= 0 for row in rows)
    assert rows[4]["kept"] == pytest.approx(1.0)  # planted
    assert "in 0 of 2 cells" in done.stdout


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("shuffles", ["--seeds", "2", "--families", "loose", "--shuffles", "interleave,sinkhorn"], 4),
        ("groupings", ["--tries", "2", "--seeds", "1", "--budgets", "0.4"], 8),  # 1 + 4 tries, 3 trained anew
    ],
)
def test_trainings_are_kept_and_resumed(root: Path, tmp_path: Path, name: str, options: list[str], rows: int) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(tmp_path / "rows.json")]
    command += ["--epochs", "2", "--train-images", "100", "--workers", "1", *options]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
    found = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(found) == rows == len(list((tmp_path / "rows").glob("*.json")))
    assert all(0 <= row["test_accuracy"] <= 1 for row in found)
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == found


def test_groups_are_drawn_within_a_budget(load: Callable[[str], ModuleType]) -> None:
    groupings = load("groupings")
    architecture = groupings.base(Problem(image_size=14, in_channels=1, num_classes=10))
    limit = groupings.budget_of(architecture, 0.3)
    costs = [
        groupings.with_groups(architecture, groupings.drawn(architecture, limit, seed)).params for seed in range(5)
    ]
    assert len(set(costs)) > 1
    assert all(groupings.FILLED * limit <= params <= limit for params in costs)


# Rule: the reference networks have the layout that the search finds first.
def test_igcv2_layouts(load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("igcv2_layouts")
    found = module.layouts()
    best = found[0]
    assert best.has_the_params
    assert tuple(zip((64, 128, 256, 512, 1024), best.repeats, best.groups, strict=True)) == LAYOUT
    for multiplier, cost in best.costs.items():
        assert REFERENCES[f"igcv2_{round(100 * multiplier):03}"].architecture.cost == cost
    monkeypatch.setattr(module, "layouts", lambda: found)
    monkeypatch.setattr("sys.argv", ["igcv2_layouts", "--json", str(tmp_path / "found.json")])
    module.main()
    saved = json.loads((tmp_path / "found.json").read_text())
    assert saved["facts"]["igcsearch"]
    assert [tuple(row["repeats"]) for row in saved["rows"]] == [layout.repeats for layout in found]
    monkeypatch.setattr(module, "layouts", lambda: pytest.fail("it searched"))
    monkeypatch.setattr("sys.argv", ["igcv2_layouts", "--help"])
    with pytest.raises(SystemExit):
        module.main()
