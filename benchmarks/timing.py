"""Calls that take turns in one run, and the machine's peaks to hold them against."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from igcsearch.machine import Elsewhere

SWEPT = 64 * 2**20  # bytes that --cold reads and writes before each call, more than the caches hold
TURNS = (5, 60)  # fewest and most of each call
QUIET = 0.1  # cores that something else may keep busy
SHORTEST_MS = 0.5  # a turn of a call that takes less is several calls
LONG_MS = 20.0  # a turn of a call that takes less begins with one that does not count


class Peaks(NamedTuple):
    """What the device did at best in this run: a copy of 256 MiB (bytes read and written), a large matrix product."""

    bytes_per_s: float
    flops_per_s: float

    def roofline_ms(self, count: float, macs: float) -> float:
        """Milliseconds that neither memory (`count` bytes) nor arithmetic (`macs` multiply-adds) can go below."""
        return 1e3 * max(count / self.bytes_per_s, 2 * macs / self.flops_per_s)


def undisturbed(
    calls: Mapping[str, Callable[[], object]], given: argparse.Namespace
) -> tuple[dict[str, float], float | None]:
    """`in_turn`, and the cores that something else kept busy meanwhile.

    Args:
        calls: as there.
        given: the options. With `patience` seconds it waits that long in all for a quiet machine, and repeats what was disturbed.
    """
    end = time.monotonic() + given.patience
    while True:
        wait_for_quiet(end - time.monotonic())
        elsewhere = Elsewhere()
        times = in_turn(calls, torch.device(given.device), given.seconds, given.cold)
        busy = elsewhere.cores()
        if busy is None or busy < QUIET or time.monotonic() > end:
            return times, busy


def wait_for_quiet(patience: float) -> None:
    """Return once nothing else runs, or after so many seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        elsewhere = Elsewhere()
        time.sleep(0.5)
        busy = elsewhere.cores()
        if busy is None or busy < QUIET:
            return


def in_turn(
    calls: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, cold: bool
) -> dict[str, float]:
    """Median milliseconds of each call over alternating turns. What a call returns is freed before the next one.

    Args:
        calls: by name; each is called twice before anything counts, and short ones once more at the start of each turn, so that
            all find the caches as they leave them.
        seconds: about how long all of it may take; never fewer than TURNS[0] turns.
        cold: stream through an array larger than the caches before each call.
    """
    swept = torch.zeros(SWEPT // 4, device=device) if cold else None
    counts, warming, whole = {}, set[str](), 0.0
    for name, call in calls.items():
        call()
        first = _once(call, device, 1)
        counts[name] = 1 if cold else max(1, min(50, round(SHORTEST_MS / max(first, 1e-3))))
        if first < LONG_MS and not cold:
            warming.add(name)
        whole += 1e-3 * first * (counts[name] + (name in warming))
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()  # a collection of all that stands in memory belongs to no single call
    try:
        for _ in range(max(TURNS[0], min(TURNS[1], int(seconds / max(whole, 1e-6))))):
            for name, call in calls.items():
                if swept is not None:
                    swept.add_(1)
                if name in warming:
                    call()
                times[name].append(_once(call, device, counts[name]))
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def _once(call: Callable[[], object], device: torch.device, count: int) -> float:
    """Milliseconds of a call, the mean of `count` in a row: by events on a GPU, by the clock on a CPU."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / count
    start = time.perf_counter()
    for _ in range(count):
        call()
    return 1e3 * (time.perf_counter() - start) / count


def peaks(device: torch.device, dtype: torch.dtype, seconds: float) -> Peaks:
    """Measured on the spot: the best of as many runs as fit into `seconds` each, of two at least."""
    source = torch.ones(256 * 2**20 // dtype.itemsize, dtype=dtype, device=device)
    target = torch.empty_like(source)
    side = 8192 if device.type == "cuda" else 1536
    left, right, product = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(3))
    with torch.inference_mode():
        copying = _best(lambda: target.copy_(source), device, seconds)
        multiplying = _best(lambda: torch.mm(left, right, out=product), device, seconds)
    return Peaks(2 * source.numel() * dtype.itemsize / copying, 2 * side**3 / multiplying)


def _best(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest call."""
    call()
    end, times = time.monotonic() + seconds, list[float]()
    while len(times) < 2 or time.monotonic() < end:
        times.append(1e-3 * _once(call, device, 1))
    return min(times)
