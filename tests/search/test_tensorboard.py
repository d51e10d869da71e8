"""TensorBoard's files: read back record by record (a reader of their format written here), and imported only when asked for."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from igcsearch.errors import UsageError
from igcsearch.search import events, run_search
from igcsearch.search.engines.local import LocalEngine
from igcsearch.search.tensorboard import TensorBoard


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> [(step, value)] of a run, all its files in the order in which they were made."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        rest = path.read_bytes()
        while rest:
            (length,) = struct.unpack("<Q", rest[:8])  # length, its checksum, data, their checksum
            event = Event.FromString(rest[12 : 12 + length])
            rest = rest[12 + length + 4 :]
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
    return found


def test_a_search_is_read_back(config: Any, fakes: Any, tmp_path: Path) -> None:
    seen: list[events.Event] = []
    board, configured = TensorBoard(), config(trials=6, workers=2, sampler="random", stopping="none")

    def listen(event: events.Event) -> None:
        seen.append(event)
        board(event)

    out = tmp_path / "out"
    study = run_search(configured, out, engine=LocalEngine(configured, trainer=fakes.TRAINER), on_event=listen)
    assert not board.error
    runs = {path.name for path in (out / "tensorboard").iterdir()}
    complete = study.candidates(("complete",))
    assert runs == {"search", *(f"candidate-{c.id:05d}" for c in complete)}
    for candidate in complete:
        curve = read(out / "tensorboard" / f"candidate-{candidate.id:05d}")["validation_accuracy"]
        assert curve == [(r["epoch"], pytest.approx(r["validation_accuracy"])) for r in candidate.curve]
    whole, status = read(out / "tensorboard" / "search"), study.status()
    for state in ("complete", "stopped", "failed", "settled", "running"):
        assert whole[f"candidates/{state}"][-1] == (status["proposals"], status[state])
    assert whole["candidates/acceptance"][-1][1] == pytest.approx(status["acceptance"])
    assert sorted(value for _, value in whole["finished/params"]) == sorted(c.params for c in complete)
    assert whole["finished/best_accuracy"][-1][1] == pytest.approx(status["best"]["accuracy"])
    best = [value for _, value in whole["finished/best_accuracy"]]
    assert best == sorted(best)
    assert [type(event).__name__ for event in seen][-1] == "Ended"


def test_a_resumed_search_adds_to_the_same_runs(config: Any, fakes: Any, tmp_path: Path) -> None:
    for trials in (2, 4):
        configured = config(trials=trials, sampler="random", stopping="none")
        engine = LocalEngine(configured, trainer=fakes.TRAINER)
        run_search(configured, tmp_path, resume=True, engine=engine, on_event=TensorBoard())
    whole = read(tmp_path / "tensorboard" / "search")
    assert whole["candidates/complete"][-1][1] == 4
    steps = [step for step, _ in whole["candidates/complete"]]
    assert steps == sorted(steps)  # proposals of the whole study


def test_many_candidates_at_once_keep_few_files_open(tmp_path: Path) -> None:
    board, counts = TensorBoard(tmp_path), events.Counts(trials=200)
    for epoch in (1, 2):
        for id in range(150):
            board(events.EpochDone(counts, id, epoch, 2, epoch / 10, 0.1))
    assert len(board._files) <= 64
    board.close()
    for id in (0, 149):
        curve = read(tmp_path / f"candidate-{id:05d}")["validation_accuracy"]
        assert curve == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]


def test_a_full_disk_ends_the_writing_and_not_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, counts = TensorBoard(tmp_path), events.Counts(trials=2)
    board(events.EpochDone(counts, 1, 1, 2, 0.5, 0.1))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full)
    board(events.EpochDone(counts, 1, 2, 2, 0.5, 0.1))
    board(events.EpochDone(counts, 2, 1, 2, 0.5, 0.1))
    assert "No space left on device" in board.error


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    begun = events.Started(events.Counts(trials=2), str(tmp_path), False, 0, 1, "cpu", 1, "none", {})
    with pytest.raises(UsageError, match="leave --tensorboard out"):
        TensorBoard()(begun)


def test_it_is_not_imported_otherwise() -> None:
    code = "import sys, igcsearch.search.run, igcsearch.cli.app, igcsearch.cli.search\n"
    code += "sys.exit(any(name.startswith('tensorboardX') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_command_writes_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--trials", "1", "--epochs", "1", "--train-images", "200", "--max-params", "4k", "--device", "cpu"]
    program = "from igcsearch.cli import main; main()"
    command = [sys.executable, "-c", program, "search", "digits", *options, "--out", str(out), "--tensorboard"]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert read(out / "tensorboard" / "search")["candidates/complete"][-1][1] == 1
