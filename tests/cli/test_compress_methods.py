"""The methods of the command compress beside permute, and distillation, on digits in one process; and what each refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import igcsearch as package
from igcsearch.training import DataSpec, evaluate, load_data

Run = Callable[..., Any]


def _call(source: Path, *more: object) -> tuple[object, ...]:
    return ("compress", f"{source}:net", "--data", "digits", "--threads", "1", "--json", *more)


def test_sparsify(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    given = ("--method", "sparsify", "--max-macs", "60%", "--epochs", "2", "--penalty-epochs", "1")
    done = igcsearch(*_call(source, *given, "--out", tmp_path / "out"))
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["macs"] <= 0.6 * found["macs_before"]
    assert found["criterion"] == "l1"
    assert found["epochs"] == 2
    assert len(found["curve"]) == 1  # the other one was with the penalty
    assert found["sparsified"]["epochs"] == 1
    assert found["sparsified"]["periods"]
    assert package.load(tmp_path / "out").architecture.macs == found["macs"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["provenance"]["sparsified"]["epochs"] == 1
    assert metrics["provenance"]["sparsified"]["recipe"]["schedule"] == "constant"
    assert "periods" not in metrics["provenance"]["sparsified"]
    assert metrics["epochs"] == 2


def test_cci(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    given = ("--method", "cci", "--n", "2", "--m", "4", "--epochs", "3")
    done = igcsearch(*_call(source, *given, "--out", tmp_path / "out"))
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["macs"] == found["macs_before"] > found["nonzero_macs"]
    assert found["bytes"] < found["bytes_before"]
    assert found["max_rel_diff_masked_vs_converted"] < 1e-5
    assert [row["epoch"] for row in found["curve"]] == [1, 2, 3]
    assert {row["sparsity"] for row in found["layers"]} == {"2:4"}
    assert found["criterion"] == "magnitude"
    network, images = package.load(tmp_path / "out"), load_data(DataSpec("digits"))
    assert sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values()) == found["bytes"]
    right = evaluate(network.eval(), images, device="cpu", mean=images.mean, std=images.std)[0]
    assert right == pytest.approx(found["accuracy_finetuned"])
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Nonzero multiply-adds" in page
    assert "2:4 sparse" in page
    ready = network.optimize_for_inference(measure=False)
    with torch.no_grad():
        x = torch.randn(2, 1, 8, 8)
        torch.testing.assert_close(ready(x), network(x), rtol=1e-3, atol=1e-4)


def test_cci_chooses_n_by_the_budget(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    given = ("--method", "cci", "--m", "8", "--max-macs", "40%", "--epochs", "0")
    done = igcsearch(*_call(source, *given, "--out", tmp_path / "out"))
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert 0.37 * found["macs_before"] < found["nonzero_macs"] <= 0.4 * found["macs_before"]


def test_auto_says_why(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    given = ("--method", "auto", "--max-macs", "60%", "--epochs", "0")
    done = igcsearch(*_call(source, *given, "--out", tmp_path / "out"))
    assert done.status == 0, done.err
    found = json.loads(done.out)
    ways = {row["way"]: row["loss"] for row in found["auto"]["compared"]}
    assert set(ways) == {f"{method}, {how}" for method in ("permute", "sparsify") for how in ("lost", "sensitivity")}
    assert ways[found["auto"]["chosen"]] == min(ways.values())
    assert found["auto"]["chosen"].endswith(f", {found['importance']}")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "least loss" in page
    assert all(way in page and f"{loss:.4f}" in page for way, loss in ways.items())
    assert "cci is not compared" in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--method", "cci", "--n", "5"), "sparsity 5:4: N must be at least 1 and at most M"),
        (("--method", "cci", "--n", "0"), "0"),
        (("--method", "cci", "--n", "2", "--axis", "up"), "sparse axis 'up'"),
        (("--method", "cci", "--n", "2", "--way", "slow"), "unknown way 'slow'"),
        (("--method", "cci"), "no budget"),
        (("--method", "cci", "--max-latency", "50%"), "cannot be chosen by a limit on latency"),
        (("--method", "cci", "--n", "2", "--criterion", "l2"), "criterion l2 is of whole kernels"),
        (
            ("--method", "cci", "--n", "2", "--importance", "sensitivity"),
            "importance sensitivity chooses N for each layer",
        ),
        (("--method", "cci", "--max-macs", "0.1%"), "smallest"),
        (("--method", "cci", "--n", "2", "--steps", "2"), "leave --steps out"),
        (("--method", "cci", "--n", "2", "--gathers", "1"), "leave --gathers out"),
        (("--method", "auto", "--max-macs", "50%", "--steps", "2"), "leave --steps out"),
        (("--n", "2", "--max-macs", "50%"), "--n is of --method cci, and the method is permute"),
        (("--penalty-epochs", "1", "--max-macs", "50%"), "--penalty-epochs is of --method sparsify"),
        (("--method", "sparsify", "--max-macs", "50%", "--threshold", "1"), "threshold 1"),
        (("--method", "sparsify", "--max-macs", "50%", "--penalty-epochs", "9"), "more than the 2 in all"),
        (("--method", "sparsify", "--max-macs", "0.1%"), "the smallest has"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_what_methods_refuse(given: tuple[str, ...], said: str, source: Path, tmp_path: Path, igcsearch: Run) -> None:
    refused = igcsearch(*_call(source, "--epochs", "2", *given, "--out", tmp_path / "out"))
    assert refused.status == 2
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert not (tmp_path / "out").exists()


def test_a_dense_network_teaches_its_small_one(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    call = ("compress", f"{source}:net", "--data", "digits", "--max-macs", "50%", "--epochs", "1", "--threads", "1")
    done = igcsearch(*call, "--distill", "--temperature", "2", "--out", tmp_path / "taught", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["distillation"] == {"teacher": "nets.py:net", "temperature": 2.0, "weight": 0.5}
    alone = igcsearch(*call, "--out", tmp_path / "alone", "--json")
    assert "distillation" not in json.loads(alone.out)
    losses = [json.loads(each.out)["curve"][0]["train_loss"] for each in (done, alone)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--temperature", "2"), "--temperature and --distill-weight are of a distillation"),
        (("--distill", "--epochs", "0"), "--epochs is 0"),
        (("--distill", "--temperature", "0"), "temperature 0 of a distillation must be above 0"),
        (("--distill", "--distill-weight", "2"), "weight 2 of a distillation"),
        (("--teacher", "{source}:seven"), "the teacher is for 7 classes, the network for 10"),
        (("--out", "{source}/small"), "cannot be written"),
    ],
)
def test_what_cannot_be_distilled_is_said_before_the_work(
    given: tuple[str, ...], said: str, source: Path, tmp_path: Path, igcsearch: Run
) -> None:
    call = ("compress", f"{source}:net", "--data", "digits", "--max-macs", "50%", "--weights", "none")
    out = () if "--out" in given else ("--out", tmp_path / "out")
    refused = igcsearch(*call, *out, *(text.format(source=source) for text in given))
    assert refused.status == 2
    assert said in refused.err
    assert "accuracy" not in refused.err
