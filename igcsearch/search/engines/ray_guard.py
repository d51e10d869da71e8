"""A process that outlives the driver for a moment: should that be killed, it ends what Ray leaves and removes its files.

Run as a script by ray_cluster.py: python ray_guard.py FOLDER. On its standard input come the ids of Ray's processes, one a
line; the end of the input is the end of the driver, however that came. Ray's own processes end with their driver, but for its
agents, which try to report that for a minute, and workers that are just being started. Needs the standard library only, and
starts in a few hundredths of a second.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_GRACE = 1.0  # seconds for processes that end by themselves


def born(pid: int) -> str:
    """When a process was started, in the system's ticks: with its id, it names a process for good; "" for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def below(pid: int) -> list[int]:
    """The processes that a process has started, and theirs (Linux; none elsewhere)."""
    found, look = list[int](), [pid]
    while look:
        parent = look.pop()
        with suppress(OSError):
            for listing in Path(f"/proc/{parent}/task").glob("*/children"):
                children = [int(child) for child in listing.read_text().split()]
                found += children
                look += children
    return found


def naming(folder: str) -> list[int]:
    """The processes whose command names the folder, as that of a Ray worker does at first; not this one."""
    found, own = list[int](), {os.getpid(), os.getppid()}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(place.name) not in own and folder.encode() in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


def main(folder: str) -> None:
    """Wait for the end of the input; then clear up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes = {}
    for line in sys.stdin:
        pid = int(line)
        processes[pid] = born(pid)
    time.sleep(_GRACE)
    processes |= {pid: born(pid) for pid in naming(folder)}
    for pid, began in processes.items():
        if began and born(pid) == began:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
