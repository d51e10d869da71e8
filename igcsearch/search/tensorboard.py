"""A listener of a search's events that writes what TensorBoard shows, with tensorboardX (which comes with Ray Tune).

    run_search(config, out, on_event=TensorBoard(out / "tensorboard"))      or: igcsearch search ... --tensorboard
    tensorboard --logdir OUT/tensorboard                                    (pip install tensorboard)

The run `search` holds counts of candidates by state and each finished candidate's accuracy and cost, over the number of proposals
so far; each candidate that trains has a run of its own with its validation accuracy over epochs. Nothing here is read back: the
study is the record. A resumed search, and each of several coordinators, adds files of its own to the same runs.
Never imported unless it is asked for (tensorboardX imports torch).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from igcsearch.errors import UsageError

from . import events

FOLDER = "tensorboard"  # in the study's folder
_OPEN = 64  # candidates' files that are open at once
_FLUSH_S = 5.0  # between two writings-out of one file
_STATES = ("complete", "stopped", "failed", "settled", "running")


class TensorBoard:
    """Writes event files. Call it with each event of a search; `Ended` closes them, as `close` does.

    What goes wrong later (a full disk) ends the writing and not the search; `error` says it then.

    Args:
        folder: gets the files. None: `tensorboard` in the study's folder, once the search says where that is.

    Raises:
        UsageError: tensorboardX is missing; later, at `Started`, a folder that cannot be written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        try:
            import tensorboardX.event_file_writer  # type: ignore[import-untyped]  # noqa: F401
        except ImportError:
            raise UsageError("--tensorboard needs tensorboardX: pip install tensorboardX") from None
        self.error = ""
        self._folder = folder
        self._files: OrderedDict[Path, _File] = OrderedDict()

    def __call__(self, event: events.Event) -> None:
        """Write what an event says."""
        if isinstance(event, events.Started):
            self._folder = self._folder or Path(event.out) / FOLDER
            _prepare(self._folder)
        if self.error or self._folder is None:
            return
        try:
            self._take(event, self._folder)
        except OSError as error:
            self.error = f"files for TensorBoard could not be written any more ({error.strerror or error})"
            self.close()

    def close(self) -> None:
        """Write out what is held back."""
        while self._files:
            with suppress(OSError):
                self._files.popitem()[1].close()

    def _take(self, event: events.Event, folder: Path) -> None:
        counts = event.counts
        match event:
            case events.EpochDone():
                figures = {"validation_accuracy": event.accuracy, "seconds": event.seconds}
                self._file(folder / _run(event.id)).write(figures, event.epoch)
                return
            case events.Finished():
                latency = {} if event.latency_ms is None else {"finished/latency_ms": event.latency_ms}
                best = {"finished/best_accuracy": event.accuracy} if event.best else {}
                figures = {"accuracy": event.accuracy, "params": event.params, "macs": event.macs}
                named = {f"finished/{name}": value for name, value in figures.items()}
                self._file(folder / "search").write({**named, **latency, **best}, counts.proposals)
        if isinstance(event, events.Finished | events.Stopped | events.Failed):
            file = self._files.pop(folder / _run(event.id), None)
            if file is not None:
                file.close()
        numbers = {f"candidates/{state}": getattr(counts, state) for state in _STATES}
        self._file(folder / "search").write(numbers | {"candidates/acceptance": counts.acceptance}, counts.proposals)
        if isinstance(event, events.Ended):
            self.close()

    def _file(self, folder: Path) -> _File:
        file = self._files.get(folder)
        if file is None:
            file = self._files[folder] = _File(folder)
        self._files.move_to_end(folder)
        if len(self._files) > _OPEN:
            self._files.popitem(last=False)[1].close()
        return file


def _run(id: int) -> str:
    return f"candidate-{id:05d}"


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("permission denied")
    except OSError as error:
        what = f"cannot write to {folder}: {error.strerror or error}"
        raise UsageError(f"{what}; make it writable, or leave --tensorboard out") from None


class _File:
    """One event file. Written here and now: tensorboardX's SummaryWriter would start a thread and a queue for each."""

    _made = 0

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        _File._made += 1  # no two files of one name, in one second or in one folder of several machines
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{_File._made}")
        self._flushed = time.monotonic()

    def write(self, values: Mapping[str, float], step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        shown = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=shown)))
        if time.monotonic() - self._flushed > _FLUSH_S:
            self._flushed = time.monotonic()
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()
