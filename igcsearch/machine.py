"""What processes need to know of their machine: its cores and what else keeps them busy, memory, the death of their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_settings(threads: int) -> dict[str, str]:
    """Environment of a process that trains with so many threads; it must be there before torch is imported.

    Threads that wait for one another spin for a moment only (GOMP_SPINCOUNT) unless the user has said otherwise: by default they
    do for milliseconds, and where anything else wants a core that takes the very core from the one they wait for. On two cores
    with other work beside it a step took 10 to 50 times as long; alone it takes 0.9 to 1.1 times as long (docs/measurements.md).
    """
    settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        settings["GOMP_SPINCOUNT"] = "1000"
    return settings


class Elsewhere:
    """How many cores something else kept busy since this was made; None where the system does not say."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float | None:
        """Of the machine, on average, less what this process used; time taken by other virtual machines counts."""
        then, now = self._start, self._now()
        if then is None or now is None:
            return None
        wall, busy, own = (b - a for a, b in zip(then, now, strict=True))
        return max(0.0, (busy - own) / max(wall, 1e-9))

    def _now(self) -> tuple[float, float, float] | None:
        try:
            ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        except OSError:
            return None
        busy = sum(map(int, ticks)) - int(ticks[3]) - int(ticks[4])  # less idle and waiting for disks
        return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()


def keep_freed_memory() -> None:
    """From now on this process keeps the memory that it frees, for the next tensors, instead of giving it back.

    For processes that only train: glibc returns every freed tensor of some megabytes to the system, and each page of the next one
    is faulted in anew. A training step takes 0.75 to 0.85 of the time without that (docs/measurements.md). Elsewhere: nothing.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):  # another C library
            return
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_MMAP_MAX, 0)


def end_with_parent(parent: int) -> None:
    """From now on this process ends when its parent does.

    Args:
        parent: the parent's process id, so that a death before this call is noticed.
    """
    if sys.platform == "linux":  # the kernel does it, even where Python is stuck in a library
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)
