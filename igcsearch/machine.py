"""What processes need to know of their machine: its cores, and the death of the one that started them, memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
