"""Start several processes on this machine that train one network together; start them again when one dies.

torch's elastic launcher spawns them (never forks) and watches them; when one dies it ends the others, and a new set goes
on from the checkpoint, a bounded number of times. None of them outlives the one that started them, kill -9 included. Under
torchrun none of this is needed: it starts the processes itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from igcsearch.errors import UsageError
from igcsearch.machine import end_with_parent, keep_freed_memory, thread_settings

RESTARTS = 3
_REFUSED = "refused"  # file of a message for the user: no restart would help
_FAILED = "failed"  # files, one a process, of what else was raised
_QUIET = "IGCSEARCH_DEBUG"  # where it is set, torch's launcher says what it does


def launch(
    work: Callable[..., Any],
    *arguments: Any,
    processes: int,
    threads: int | None = None,
    restarts: int = RESTARTS,
    on_restart: Callable[[str], None] = lambda message: None,
) -> Any:
    """What `work(*arguments)` returns in process 0 of several, which find each other by torchrun's variables.

    Args:
        work: a function of a module; it makes its `Group.from_environment`.
        arguments: can be pickled.
        processes: how many.
        threads: of torch in each; None: the cores shared out.
        restarts: how often all are started again after one died.
        on_restart: told why, in one line.

    Raises:
        UsageError: what `work` raised as one, in any process.
        RuntimeError: a process died once more than `restarts`.
        KeyboardInterrupt: Ctrl-C, after all have ended.
    """
    import torch
    import torch.distributed.launcher.api
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    threads = threads or max(1, torch.get_num_threads() // processes)
    with _signals_put_back(), _environment(threads), _quiet_launcher():
        for restart in range(restarts + 1):
            with tempfile.TemporaryDirectory(prefix="igcsearch-launch-") as folder:
                try:
                    return _run_once(work, arguments, processes, folder)
                except ChildFailedError as error:
                    refused = Path(folder, _REFUSED)
                    if refused.exists():
                        raise UsageError(refused.read_text(encoding="utf-8")) from None
                    reason = _reason(error, Path(folder), processes)
            if restart < restarts:
                on_restart(f"{reason}; restart {restart + 1} of {restarts} goes on from the last whole epoch")
    raise RuntimeError(f"{reason}; it was restarted {restarts} time{'' if restarts == 1 else 's'}")


def _run_once(work: Callable[..., Any], arguments: tuple[Any, ...], processes: int, folder: str) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=Path(folder).name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,  # ours: what the user can mend is not tried again
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )
    try:
        results = elastic_launch(config, _live)(os.getpid(), folder, work, arguments)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + int(error.sigval)) from None
    return results[0]


def _live(parent: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """One process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group: nothing here is worth a traceback
    end_with_parent(parent)
    keep_freed_memory()
    try:
        result = work(*arguments)
    except BaseException as error:
        # The others may be waiting for this process: it goes at once, and the launcher ends them.
        refused = isinstance(error, UsageError)
        name = _REFUSED if refused else f"{_FAILED}{os.environ['RANK']}"
        text = str(error) if refused else f"{type(error).__name__}: {error}"
        beside = Path(folder, f"{name}.{os.getpid()}")
        beside.write_text(text, encoding="utf-8")
        beside.replace(Path(folder, name))
        if os.environ.get(_QUIET):
            raise
        sys.stdout.flush()
        os._exit(1)
    sys.stdout.flush()
    return result if os.environ["RANK"] == "0" else None


def _reason(error: Any, folder: Path, processes: int) -> str:
    """Who ended first and how. A process that was killed goes before those that then miss it."""
    failures = sorted(error.failures.items(), key=lambda item: (item[1].exitcode >= 0, item[0]))
    rank, failure = failures[0]
    if failure.exitcode < 0:
        try:
            how = f"was ended by {signal.Signals(-failure.exitcode).name}"
        except ValueError:
            how = f"was ended by signal {-failure.exitcode}"
        return f"process {rank} of {processes} {how}" + (" (out of memory?)" if failure.exitcode == -9 else "")
    told = folder / f"{_FAILED}{rank}"
    how = " ".join(told.read_text(encoding="utf-8").split()) if told.exists() else f"exit code {failure.exitcode}"
    return f"process {rank} of {processes} failed ({how})"


@contextmanager
def _signals_put_back() -> Iterator[None]:
    """torch's launcher puts handlers of its own in place and leaves them there."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What the processes must find there before they import torch."""
    names = thread_settings(threads)
    if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ:
        names["GLOO_SOCKET_IFNAME"] = "lo"  # all are on this machine, whatever its name resolves to
    before = dict(os.environ)
    os.environ.update(names)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """Without its log on stderr, which tells in pages what we tell in a line."""
    if os.environ.get(_QUIET):
        yield
        return
    theirs = ("torch.distributed", "torch.multiprocessing")
    known = logging.root.manager.loggerDict.items()
    named = [logger for name, logger in known if name.startswith(theirs) and isinstance(logger, logging.Logger)]
    loggers = [logger for logger in named if not logger.disabled]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False
