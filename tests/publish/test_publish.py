"""publish end to end on digits, with real worker processes: what is written, what is repeated, what sees the test split."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from igcsearch.entries import load, read_folder
from igcsearch.errors import UsageError
from igcsearch.nn import StagedNetwork
from igcsearch.publish import events, finalists, publish, read_finalists, rounds
from igcsearch.publish.retrain import Job
from igcsearch.publish.workers import OnMessage
from igcsearch.training import DataSpec, evaluate, load_data

from .studies import RECIPE, Published, candidate, fake_study, run


def test_the_best_by_mean_validation_accuracy_is_chosen(published: Published) -> None:
    stored = read_finalists(published.study.path)
    assert stored is not None
    rows = stored["finalists"]
    assert sorted(row["id"] for row in rows) == [2, 3, 4], "the best 3 * top of the search"
    for row in rows:
        accuracies = [run["validation_accuracy"] for run in row["seeds"]]
        assert [run["seed"] for run in row["seeds"]] == [0, 1]
        assert row["validation_accuracy"] == pytest.approx(statistics.fmean(accuracies))
        assert row["validation_std"] == pytest.approx(statistics.stdev(accuracies))
    best = max(rows, key=lambda row: row["validation_accuracy"])
    assert [row["id"] for row in rows if row["chosen"]] == [best["id"]]
    assert best["entry"] == published.entries[0].name


def test_test_split_is_touched_for_the_chosen_alone(published: Published) -> None:
    """Once for each of its seeds, nothing else."""
    [entry] = published.entries
    images = len(load_data(DataSpec("digits")).test)
    assert published.evaluated == [(entry.architecture.hash, images)] * 2
    stored = read_finalists(published.study.path)
    assert stored is not None
    assert [row["test_accuracy"] is not None for row in stored["finalists"]] == [
        row["chosen"] for row in stored["finalists"]
    ]


def test_entry_carries_all_that_its_figures_need(published: Published) -> None:
    [entry] = published.entries
    metrics, data = entry.metrics, load_data(DataSpec("digits"))
    tests = [run["test_accuracy"] for run in metrics["seeds"]]
    assert metrics["accuracy"] == pytest.approx(statistics.fmean(tests))
    assert metrics["accuracy_std"] == pytest.approx(statistics.stdev(tests))
    assert metrics["train_images"] == len(data.train) > 300, "the full training split, not the search's part"
    assert metrics["macs"] == metrics["macs_fvcore"] == entry.architecture.macs
    assert metrics["fvcore_total"] >= metrics["macs"]
    assert metrics["latency"]["threads"] == 1
    assert metrics["input_size"] == [1, 8, 8]
    assert metrics["class_names"] == [str(digit) for digit in data.class_names]
    assert metrics["split"] == json.loads(json.dumps(data.split))
    assert metrics["recipe"] == {k: v for k, v in RECIPE.resolve(data, "float32").to_dict().items() if k != "seed"}
    assert {"python", "torch", "igcsearch"} <= set(metrics["versions"])
    assert "commit" in metrics
    origin = metrics["provenance"]
    assert (origin["study"], origin["sampler"], origin["seed"]) == ("study", "tpe", 0)
    assert origin["budget"] == {"params": 20000}
    assert origin["trial"] in (2, 3, 4)


def test_entry_holds_the_weights_of_the_first_seed(published: Published) -> None:
    """Loaded afresh, it has the test accuracy that was recorded for seed 0."""
    [entry] = published.entries
    assert entry.metrics["weights_seed"] == 0
    accuracy, _ = evaluate(load(entry.path), load_data(DataSpec("digits")).test, device="cpu")
    assert accuracy == entry.metrics["seeds"][0]["test_accuracy"]


def test_entry_is_in_the_zoos_table(published: Published) -> None:
    [entry] = published.entries
    assert entry.path == published.zoo / entry.name
    assert entry.architecture.hash in entry.name
    assert f"[{entry.name}]" in (published.zoo / "README.md").read_text()


def test_events_tell_the_way(published: Published) -> None:
    plan = published.told[0]
    assert isinstance(plan, events.Planned)
    assert (plan.candidates, plan.retrainings, plan.reused, plan.workers) == (3, 6, 0, 2)
    assert sum(isinstance(event, events.EpochDone) for event in published.told) == 6
    assert sum(isinstance(event, events.SeedDone) for event in published.told) == 6
    assert [type(event) for event in published.told[-2:]] == [events.FinalistsChosen, events.EntryWritten]
    assert all(event.message and "\n" not in event.message for event in published.told)


def test_the_same_call_again_repeats_nothing(published: Published) -> None:
    files = {path: path.stat().st_mtime_ns for path in (published.study.path / "publish").rglob("*-*.*")}
    again = run(published.study, published.zoo, top=1, seeds=2)
    assert again.evaluated == []
    done = [event for event in again.told if isinstance(event, events.SeedDone)]
    assert len(done) == 6
    assert all(event.reused for event in done)
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert again.entries[0].metrics["accuracy"] == published.entries[0].metrics["accuracy"]
    replaced = again.told[-1]
    assert isinstance(replaced, events.EntryWritten)
    assert replaced.replaced


def test_a_damaged_result_is_trained_again(published: Published) -> None:
    [weights] = (published.study.path / "publish" / candidate(3).hash / "seed1").glob("weights-*")
    before = weights.read_bytes()
    weights.write_bytes(before[:-1])
    again = run(published.study, published.zoo, top=1, seeds=2, workers=2)
    redone = [event for event in again.told if isinstance(event, events.SeedDone) and not event.reused]
    assert [(event.id, event.seed) for event in redone] == [(3, 1)]
    assert weights.read_bytes() == before, "the same seed and threads give the same weights"


INTERRUPTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.publish.studies import fake_study
from igcsearch.publish import events, publish

def tell(event):
    if isinstance(event, (events.SeedDone, events.EpochDone)):
        print(type(event).__name__, event.id, event.seed, flush=True)

if __name__ == "__main__":
    study = fake_study(Path(sys.argv[1]), 2)
    publish(study, top=1, seeds=2, epochs=2, workers=2, to=sys.argv[2], on_event=tell)
"""


def test_interrupted_publish_goes_on(tmp_path: Path) -> None:
    """kill -9 after the first finished seed: its workers end by themselves, and the next call repeats no finished seed."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, str(script), str(tmp_path / "study"), str(tmp_path / "zoo"), root]
    environment = {**os.environ, "IGCSEARCH_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.split())
        if seen[-1][0] == "EpochDone" and ["SeedDone"] in [words[:1] for words in seen]:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert ["SeedDone"] in [words[:1] for words in seen], "it ended before it was killed"
    _wait_until_gone(str(tmp_path))
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "publish").rglob("result-*.json")}
    assert results
    study = fake_study(tmp_path / "study", 2)
    again = run(study, tmp_path / "zoo", top=1, seeds=2, epochs=2, workers=2)
    assert len(again.entries) == 1
    reused = [event for event in again.told if isinstance(event, events.SeedDone) and event.reused]
    assert len(reused) == len(results) < 4
    assert results == {path: path.stat().st_mtime_ns for path in results}


def _wait_until_gone(mark: str) -> None:
    """Until no process that carries the mark in its environment is left (only where /proc tells)."""
    if not Path("/proc/self/environ").exists():
        return
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        alive = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark.encode() in path.read_bytes():
                    alive.append(path)
            except OSError:
                continue
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"still alive: {alive}")


def test_failed_finalists_are_not_chosen(tmp_path: Path) -> None:
    """A candidate for other images fails in training; it is listed with its reason, and the other is chosen."""
    study = fake_study(tmp_path / "study", 2)
    wrong = study.found[1].architecture.with_(in_channels=3)
    study.found[1] = replace(study.found[1], data=wrong.to_dict(), hash=wrong.hash, accuracy=0.99)
    result = run(study, tmp_path / "zoo", top=1, seeds=1, workers=2)
    assert [entry.metrics["provenance"]["trial"] for entry in result.entries] == [0]
    assert result.entries[0].metrics["accuracy_std"] is None, "one seed has no deviation"
    stored = read_finalists(study.path)
    assert stored is not None
    assert "architecture is for 3 channels" in stored["finalists"][1]["failed"]
    assert any(isinstance(event, events.Note) and "has 2" in event.message for event in result.told)


def test_all_finalists_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(jobs: Sequence[Job], workers: int, on_message: OnMessage, pool: object) -> None:
        for job in jobs:
            on_message(job, "failed", {"reason": "no luck"})

    monkeypatch.setattr(rounds, "run_jobs", fail)
    with pytest.raises(UsageError, match="every finalist failed: seed 0: no luck"):
        publish(fake_study(tmp_path / "study"), to=tmp_path / "zoo")  # type: ignore[arg-type]
    assert not (tmp_path / "zoo").exists()


def test_bad_input_before_any_training(tmp_path: Path) -> None:
    study = fake_study(tmp_path / "study")
    (tmp_path / "file").touch()
    for message, options in [
        ("top 0", {"top": 0}),
        ("seeds 0", {"seeds": 0}),
        ("epochs -1", {"epochs": -1}),
        ("workers 0", {"workers": 0}),
        ("cannot be written", {"to": tmp_path / "file" / "zoo"}),
        ("unknown data", {"data": DataSpec("digitz")}),
    ]:
        with pytest.raises(UsageError, match=message):
            publish(study, **{"to": tmp_path / "zoo", **options})  # type: ignore[arg-type]
    study.found = [replace(found, state="stopped") for found in study.found]
    with pytest.raises(UsageError, match="no complete candidate"):
        publish(study, to=tmp_path / "zoo")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        publish(tmp_path / "nowhere", to=tmp_path / "zoo")
    network = StagedNetwork(study.found[0].architecture)
    with pytest.raises(UsageError, match=r"a StagedNetwork is no study; give one of igcsearch.open_study.*write_entry"):
        publish(network, to=tmp_path / "zoo")  # type: ignore[arg-type]
    assert not list((study.path / "publish").glob("*/seed*"))
    assert not (tmp_path / "zoo").exists(), "a call that fails leaves no zoo"


def _refusing(jobs: Sequence[Job], workers: int, on_message: OnMessage, pool: object) -> None:
    assert not jobs, "nothing is to be trained"


def test_an_entry_of_another_origin_is_kept(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known before any training, with the entry, the difference and the cure; overwrite=True replaces it."""
    zoo = tmp_path / "zoo"
    [entry] = run(published.study, zoo, top=1, seeds=2).entries
    elsewhere = fake_study(tmp_path / "elsewhere")
    before = (entry.path / "metrics.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "run_jobs", _refusing)
        for message, study, options in [
            (r"another recipe already \(epochs 1, now 7\).*--overwrite", published.study, {"epochs": 7}),
            (r"another study already \(study study, now elsewhere\).*--to", elsewhere, {}),
            (r"another data already", published.study, {"train_images": 500}),
        ]:
            with pytest.raises(UsageError, match=message) as caught:
                run(study, zoo, top=1, seeds=2, **options)
            assert str(entry.path) in str(caught.value)
        (entry.path / "metrics.json").write_text("{")
        with pytest.raises(UsageError, match=r"cannot be read.*overwrite"):
            run(published.study, zoo, top=1, seeds=2)
        (entry.path / "metrics.json").write_bytes(before)
        again = run(replace(published.study, found=published.study.found[:]), zoo, top=1, seeds=2, overwrite=True)
    assert [one.name for one in again.entries] == [entry.name]
    for file in (published.study.path / "publish").rglob("*"):  # as if the other study had retrained them so
        target = elsewhere.path / file.relative_to(published.study.path)
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.write_bytes(file.read_bytes())
    [replaced] = run(elsewhere, zoo, top=1, seeds=2, overwrite=True).entries
    assert (replaced.path, replaced.metrics["provenance"]["study"]) == (entry.path, "elsewhere")
    assert replaced.metrics["provenance"]["candidates_ranked"] == 5


def test_another_test_split_is_tested_anew(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of the test split are of its own images, not only of the images that were trained on."""
    found = load_data(DataSpec("digits"))
    half = replace(found.test, **{name: getattr(found.test, name)[::2] for name in ("images", "labels", "indices")})
    monkeypatch.setattr(rounds, "load_data", lambda spec: replace(found, test=half))
    again = run(published.study, tmp_path / "zoo", top=1, seeds=2)
    assert [images for _, images in again.evaluated] == [len(half)] * 2
    monkeypatch.undo()
    [entry] = run(published.study, tmp_path / "zoo", top=1, seeds=2).entries
    assert entry.metrics["accuracy"] == published.entries[0].metrics["accuracy"]


def test_a_damaged_checkpoint_costs_its_epochs_alone(tmp_path: Path) -> None:
    """The file is the study's own: it is discarded with a note."""
    study = fake_study(tmp_path / "study", 1)
    folder = study.path / "publish" / study.found[0].hash / "seed0"
    folder.mkdir(parents=True)
    [entry] = run(study, tmp_path / "zoo", top=1, seeds=1).entries
    [weights] = folder.glob("weights-*")
    key = weights.stem.partition("-")[2]
    for file in folder.iterdir():
        file.unlink()
    (folder / f"checkpoint-{key}.safetensors").write_bytes(b"half a file")
    again = run(study, tmp_path / "zoo", top=1, seeds=1)
    assert again.entries[0].metrics["weights_sha256"] == entry.metrics["weights_sha256"]
    notes = [event.text for event in again.told if isinstance(event, events.Note)]
    assert any("candidate 0 seed 0: training begins anew: checkpoint" in note for note in notes)


def test_zoo_by_default_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    monkeypatch.setenv("IGCSEARCH_ZOO", str(tmp_path / "mine"))
    [entry] = publish(published.study, top=1, seeds=2)  # type: ignore[arg-type]
    assert entry.path.parent == tmp_path / "mine"
    assert torch.equal(*(load(path)(torch.zeros(1, 1, 8, 8)) for path in (entry.path, published.entries[0].path)))
    assert read_folder(entry.path).metrics["weights_sha256"] == published.entries[0].metrics["weights_sha256"]


# The name of a network is that of its family, data, size and hash: the package may hold the same one, trained otherwise.
def test_a_name_that_means_another_zoos_network_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Published
) -> None:
    from igcsearch.entries import zoo

    told: list[events.Event] = []
    other = tmp_path / "zoo" / published.entries[0].name
    shutil.copytree(published.entries[0].path, other)
    monkeypatch.setattr(zoo, "package_zoo", lambda: tmp_path / "zoo")
    finalists._say_if_hidden(published.entries[0], told.append)
    assert told == []  # the same weights: it does not matter which
    metrics = json.loads((other / "metrics.json").read_text())
    weights = safetensors.torch.load_file(other / "weights.safetensors")
    weights = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, other / "weights.safetensors")
    metrics["weights_sha256"] = hashlib.sha256((other / "weights.safetensors").read_bytes()).hexdigest()
    (other / "metrics.json").write_text(json.dumps(metrics))
    finalists._say_if_hidden(published.entries[0], told.append)
    assert [type(event) for event in told] == [events.Note]
    assert "load this one by its folder" in told[0].message
