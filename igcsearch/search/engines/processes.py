"""A worker process and its pipe, as every pool here uses them: the local engine, and the retrainings of igcsearch.publish.

Spawned, never forked, with its thread counts in the environment. Its death is noticed at once, by its sentinel. It leaves
Ctrl-C to the process that started it, and ends with that one, kill -9 included. Who works on what is the pool's to decide.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from igcsearch.machine import end_with_parent, keep_freed_memory, thread_settings


class WorkerProcess:
    """A process that runs `work(channel, *arguments)`, seen from the one that started it.

    Args:
        work: a function of a module; when it returns, the process ends.
        threads: of the process, for the libraries that ask the environment when they are loaded.
        name: of the process.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any, threads: int, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_live, args=(theirs, os.getpid(), work, arguments), name=name
        )
        with _environment(threads):
            self.process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        """Send a message; to a process that is dead it is lost, and `wait_for` says so next."""
        with suppress(OSError):
            self.pipe.send(message)

    def messages(self) -> Iterator[Any]:
        """What lies in the pipe, also what the process sent before it died."""
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            return

    def exit(self) -> str:
        """How the process ended, in words; call it once it is dead."""
        self.process.join()
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"signal {-code}" + (", out of memory?" if code == -9 and sys.platform == "linux" else "")
        return f"exit code {code}"

    def end(self) -> None:
        """End the process now."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


W = TypeVar("W", bound=WorkerProcess)


def wait_for(workers: Iterable[W], timeout: float | None = None) -> list[tuple[W, bool]]:
    """Wait for messages or a death: the workers that have either, and whether each is dead.

    Read the messages first: those of a dead one are all there.
    """
    listed = list(workers)
    ready = wait([thing for worker in listed for thing in (worker.pipe, worker.process.sentinel)], timeout=timeout)
    dead = [worker.process.sentinel in ready for worker in listed]
    return [(worker, died) for worker, died in zip(listed, dead, strict=True) if died or worker.pipe in ready]


class Channel:
    """The process's own end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: Any) -> None:
        """Send a message."""
        self._pipe.send(message)

    def receive(self) -> Any:
        """The next message; waits for it."""
        return self._inbox.get()

    def _read(self) -> None:
        """Read in a thread of its own, so that the end of the pipe ends the process in the middle of its work."""
        while True:
            try:
                self._inbox.put(self._pipe.recv())
            except (EOFError, OSError):
                os._exit(0)


def _live(pipe: Connection, parent: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    end_with_parent(parent)
    keep_freed_memory()
    work(Channel(pipe), *arguments)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Thread counts must be in the environment before the child imports torch."""
    settings = thread_settings(threads)
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
