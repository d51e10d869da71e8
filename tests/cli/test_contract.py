"""What other tools rely on: files, JSON documents with their keys, and nothing else on stdout. A real study, a real network."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igcsearch.spec import Architecture, Block, Factor, Stage, StagedArchitecture

Run = Callable[..., Any]


def document(result: Any) -> Any:
    """The one JSON document on stdout."""
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_search_prints_a_line_a_candidate_and_leaves_study_and_page(searched: tuple[Path, Any]) -> None:
    folder, result = searched
    assert (folder / "study.db").is_file()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    err = result.err
    # In a pipe: the device and the estimate come before the first candidate, then a line each.
    assert err.index("device cpu") < err.index("estimate: ") < err.index("[1/3] candidate")
    assert re.findall(r"^\[(\d)/3\] candidate", err, re.MULTILINE) == ["1", "2", "3"]
    assert "accepted" in err
    assert "\x1b" not in err + result.out
    assert "complete candidates" in result.out
    assert str(folder / "report.html") in err


def test_status(searched: tuple[Path, Any], igcsearch: Run) -> None:
    found = document(igcsearch("status", searched[0], "--json"))
    assert {"complete", "stopped", "settled", "failed", "running", "best"} <= set(found)
    assert found["complete"] + found["stopped"] == 3
    assert found["running"] == 0
    plain = igcsearch("status", searched[0])
    assert plain.status == 0
    assert "trained    3 of 3" in plain.out
    # The database's own path names the study too.
    assert document(igcsearch("status", searched[0] / "study.db", "--json"))["best"] == found["best"]


def test_pareto(searched: tuple[Path, Any], igcsearch: Run) -> None:
    front = document(igcsearch("pareto", searched[0], "--json"))
    assert front
    for row in front:
        assert {"id", "params", "macs", "latency_ms", "accuracy", "epochs", "architecture"} <= set(row)
        architecture = Architecture.from_dict(row["architecture"])
        assert (architecture.params, architecture.macs) == (row["params"], row["macs"])
        assert row["params"] <= 4_000
        assert 0 <= row["accuracy"] <= 1
    listed = igcsearch("pareto", searched[0], "--csv")
    rows = list(csv.DictReader(io.StringIO(listed.out)))
    assert [int(row["id"]) for row in rows] == [row["id"] for row in front]
    assert Architecture.from_json(rows[0]["architecture"]).to_dict() == front[0]["architecture"]
    both = igcsearch("pareto", searched[0], "--csv", "--json")
    assert (both.status, both.out) == (2, "")


def test_report(searched: tuple[Path, Any], igcsearch: Run, tmp_path: Path) -> None:
    result = igcsearch("report", searched[0], "--out", tmp_path / "page.html")
    assert result.status == 0, result.err
    assert (tmp_path / "page.html").stat().st_size < 500_000
    assert igcsearch("report", searched[0], "--out", tmp_path / "no" / "page.html").status == 2


def test_profile(entry: Path, igcsearch: Run) -> None:
    found = document(igcsearch("profile", entry, "--json"))
    assert {"params", "macs", "macs_fvcore", "fvcore_total", "latency_ms", "latency", "blocks"} <= set(found)
    assert {"median_ms", "p90_ms", "device", "threads", "batch", "dtype"} <= set(found["latency"])
    architecture = Architecture.from_json((entry / "architecture.json").read_text())
    assert (found["params"], found["macs"]) == architecture.cost
    assert found["macs_fvcore"] == architecture.macs
    assert found["latency_ms"] > 0
    assert sum(block["params"] for block in found["blocks"]) < found["params"]
    of_file = document(igcsearch("profile", entry / "architecture.json", "--batch", 4, "--json"))
    assert of_file["latency"]["batch"] == 4
    assert "fvcore" in igcsearch("profile", entry).out


def test_profile_of_a_sparse_network(tmp_path: Path, igcsearch: Run) -> None:
    steps = (Factor(8, 8, 3, norm=True, sparsity=(2, 4)),)
    made = StagedArchitecture(1, 8, 10, Block((Factor(1, 8, 3, norm=True),)), (Stage((Block(steps),)),))
    path = tmp_path / "sparse.json"
    path.write_text(made.to_json())
    found = document(igcsearch("profile", path, "--json"))
    assert found["macs"] - found["nonzero_macs"] == 8 * 8 * 9 * 64 // 2
    assert found["macs"] == found["macs_fvcore"]
    assert ["nonzero_macs" in block for block in found["blocks"]] == [False, True]
    shown = igcsearch("profile", path).out
    assert "nonzero MACs" in shown
    assert f"{made.nonzero_macs:,} (with the weights" in shown


def test_check(entry: Path, igcsearch: Run) -> None:
    found = document(igcsearch("check", entry, "--json"))
    architecture = Architecture.from_json((entry / "architecture.json").read_text())
    assert [block["block"] for block in found["blocks"]] == [name for name, _ in architecture.blocks()]
    for block in found["blocks"]:
        assert {"complementary", "one_path", "paths", "balance", "cost_per_nat", "cost_per_nat_ratio"} <= set(block)
        assert block["complementary"] in ("strict", "nearly", "loose", "none")
        assert set(block["paths"]) == {"min", "max", "mean"}
        assert block["one_path"] == (block["paths"]["min"] == block["paths"]["max"] == 1)
    assert found == document(igcsearch("check", entry / "architecture.json", "--json")) | {"name": found["name"]}
    assert igcsearch("check", entry).status == 0


def test_train_wrote_an_entry_that_evaluate_agrees_with(entry: Path, igcsearch: Run) -> None:
    assert {path.name for path in entry.iterdir()} == {
        *("architecture.json", "metrics.json", "weights.safetensors", "README.md")
    }
    metrics = json.loads((entry / "metrics.json").read_text())
    found = document(igcsearch("evaluate", entry, "--data", "digits", "--device", "cpu", "--json"))
    assert {"accuracy", "n"} <= set(found)
    assert found["accuracy"] == metrics["accuracy"]
    assert metrics["epochs"] == 2
    assert not list(entry.parent.glob("*.partial"))


def test_list_shows_the_zoo(entry: Path, igcsearch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGCSEARCH_ZOO", str(entry.parent))
    found = {row["name"]: row for row in document(igcsearch("list", "--json"))}
    assert {"name", "params", "macs", "data", "accuracy", "zoo"} <= set(found["little"])
    assert found["little"]["zoo"] == "user"
    assert document(igcsearch("list", "litt*", "--json")) == [found["little"]]
    assert document(igcsearch("list", "nothing*", "--json")) == []
    assert "little" in igcsearch("list").out
    assert document(igcsearch("profile", "little", "--json"))["name"] == "little"


def test_reference_networks_are_known_by_name(igcsearch: Run) -> None:
    rows = document(igcsearch("list", "--references", "--json", "igcv2_*"))
    assert {"igcv2_fig3_l3", "igcv2_star_c416", "igcv2_100"} <= {row["name"] for row in rows}
    assert {"name", "table", "params", "published_params", "macs", "published_macs", "note", "source"} <= set(rows[0])
    shown = igcsearch("list", "--references", "mobilenetv1*")
    assert "4,231,976" in shown.out
    assert "no reference network matches" in igcsearch("list", "--references", "nothing*").err
    assert "2 reference networks without weights" in igcsearch("list", "resnet*cifar10").err
    found = document(igcsearch("profile", "resnet20_cifar10", "--json"))
    halved = document(igcsearch("profile", "resnet20_cifar10", "--image-size", 16, "--json"))
    assert halved["params"] == found["params"]
    assert halved["macs"] == halved["macs_fvcore"] < found["macs"]
    assert halved["blocks"][-1]["out_size"] == 4
    for command in (
        ["profile", "resnet18", "--image-size", 8],
        ["train", "resnet18", "--data", "digits", "--out", "no"],
    ):
        said = igcsearch(*command)
        assert said.status == 2
        assert (
            "error: this network shrinks images 32 times, so 8 pixels a side are too few: use at least 32" in said.err
        )
        assert said.err.count("error: ") == 1
        assert "Traceback" not in said.err
    assert not Path("no").exists()
    assert "igcsearch list --references" in igcsearch("profile", "resnet19").err
    assert found["name"] == "resnet20_cifar10"
    assert found["params"] == 272_474
    assert found["macs"] == found["macs_fvcore"]
    assert document(igcsearch("check", "igcv2_fig3_l3", "--json"))["blocks"][1]["complementary"] == "nearly"
    refused = igcsearch("evaluate", "resnet20_cifar10", "--data", "digits")
    assert refused.status == 2
    assert "an architecture alone" in refused.err
    refused = igcsearch("train", "resnet18", "--data", "digits", "--epochs", 1)
    assert refused.status == 2
    assert "shrinks images 32 times, so 8 pixels a side are too few" in refused.err


def test_train_starts_from_weights_for_other_classes(entry: Path, igcsearch: Run, tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    images = stream.integers(0, 255, (64, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", x_train=images, y_train=np.arange(64) % 2, x_test=images, y_test=np.arange(64) % 2)
    command = ["train", entry, "--pretrained", "--data", tmp_path / "two.npz", "--epochs", 1, "--device", "cpu"]
    first = igcsearch(*command, "--out", tmp_path / "a", "--json")
    found = document(first)
    assert {"name", "accuracy", "n", "params", "macs", "path"} <= set(found)
    assert found["n"] == 64
    assert "2 classes" in first.err
    adapted = Architecture.from_json((tmp_path / "a" / "architecture.json").read_text())
    assert (adapted.num_classes, found["params"]) == (2, adapted.params)
    scratch = document(igcsearch(*[c for c in command if c != "--pretrained"], "--out", tmp_path / "b", "--json"))
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] != weights[1]
    assert scratch["params"] == found["params"]


@pytest.mark.slow
def test_publish(searched: tuple[Path, Any], process: Run, igcsearch: Run, tmp_path: Path) -> None:
    command = ["publish", searched[0], "--top", 1, "--seeds", 2, "--epochs", 1, "--to", tmp_path / "zoo"]
    found = document(process(*command, "--agreement", 3, "--json"))
    assert len(found) == 1
    assert {"name", "path", "params", "macs", "accuracy", "seeds", "latency_ms"} <= set(found[0])
    assert len(found[0]["seeds"]) == 2
    assert document(igcsearch("profile", found[0]["path"], "--json"))["params"] == found[0]["params"]
    page = (searched[0] / "report.html").read_text(encoding="utf-8")
    assert "Finalists, retrained" in page
    assert "Kendall" in page


# Rule: the table shows what the entries' metrics say, latency among it; where a named candidate is missing the status is 1.
def test_publish_named_candidates(
    searched: tuple[Path, Any], igcsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from igcsearch import publish as publishing

    best = document(igcsearch("status", searched[0], "--json"))["best"]
    options = ["--seeds", 1, "--epochs", 1, "--to", tmp_path / "zoo"]
    command = ["publish", searched[0], *options, "--candidates", best["id"]]
    result = igcsearch(*command)
    assert result.status == 0, result.err
    [folder] = (path.parent for path in (tmp_path / "zoo").glob("*/metrics.json"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["provenance"]["trial"], metrics["provenance"]["chosen_by"]) == (best["id"], "id")
    heading = next(line.split() for line in result.out.splitlines() if "published" in line)
    assert heading[-2:] == ["ms", "in"]
    assert f" {metrics['latency']['median_ms']:.3f} " in result.out
    real = publishing.publish
    monkeypatch.setattr(publishing, "publish", lambda *a, **k: real(*a, **{**k, "candidates": k["candidates"][:1]}))
    assert igcsearch(*command[:-1], f"{best['id']}, 999").status == 1  # as if 999 were there and had failed


def test_interrupt_ends_with_the_table_and_can_go_on(tmp_path: Path, process: Run) -> None:
    options = ["digits", "--epochs", "1", "--max-params", "3k", "--device", "cpu", "--out", str(tmp_path / "study")]
    command = [sys.executable, "-c", "from igcsearch.cli import main; main()", "search", *options, "--trials", "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:  # the first candidate is done
            if line.startswith("[1/500]"):
                break
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err + out
    assert "complete candidate" in out
    assert "--resume" in out
    assert (tmp_path / "study" / "report.html").is_file()
    trained = document(process("status", tmp_path / "study", "--json"))["complete"]
    assert trained >= 1
    again = process("search", *options, "--trials", trained, "--resume")
    assert again.status == 0, again.err


def test_reproduce(igcsearch: Run) -> None:
    rows = document(igcsearch("reproduce", "igcv2-imagenet", "--json"))
    assert [row["name"] for row in rows] == ["igcv2_100", "igcv2_050", "igcv2_025"]
    for row in rows:
        assert {"table", "published_params", "params", "published_macs", "macs", "macs_fvcore", "note"} <= set(row)
    smallest = document(igcsearch("profile", rows[-1]["name"], "--json"))
    assert [smallest[key] for key in ("params", "macs", "macs_fvcore")] == [
        rows[-1][key] for key in ("params", "macs", "macs_fvcore")
    ]
    shown = igcsearch("reproduce", "igcv3-cifar")
    assert shown.status == 0
    assert "2,223,498" in shown.out
    assert "rounds to it" in shown.out
    assert "strides as the authors told" in shown.out
    assert igcsearch("reproduce", "igcv3-cifar", "--markdown").out.startswith("# Published tables, rebuilt\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["igcv9"], "unknown table 'igcv9' (did you mean"),
        (["igcv3_d_100"], "is a network of table 'igcv3-imagenet', not a table"),
        (["--json", "--markdown"], "exclude each other"),
    ],
)
def test_reproduce_refuses(arguments: list[str], said: str, igcsearch: Run) -> None:
    refused = igcsearch("reproduce", *arguments)
    assert (refused.status, refused.out) == (2, "")
    assert said in refused.err


def test_a_grid_counts_its_points(igcsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "from igcsearch.blocks import network, stage, xception\n\n\n"
        "def space(trial, problem):\n"
        "    width = 8 * trial.suggest_int('eighths', 1, 2)\n"
        "    return network(problem, width, [stage(xception, width, width, 1, stride=2)])\n"
    )
    call = ["search", f"{tmp_path}/two.py:space", "--data", "digits", "--sampler", "grid", "--epochs", "1"]
    done = igcsearch(*call, "--threads", "1", "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "[2/2] candidate 1" in done.err
    assert "2 candidates are trained, 2 were asked for" in done.err
    assert "of 30" not in done.err
