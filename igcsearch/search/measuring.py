"""The measuring behind predicted latency, in the coordinator's process: before anything is trained, while no worker computes.

`measure_table` makes a `LatencyTable` of the parts of random proposals, the most frequent ones first, for a bounded time, and holds
its predictions against whole networks. `Meter` holds the clock; torch is imported when it is made.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Problem
from igcsearch.spec.parts import Part, parts

from .latency import LatencySetting, LatencyTable, Times, make_table
from .settle import RandomTrial, Space, check_latency

PROPOSALS = 300  # random ones, whose parts are measured
CHECKED = 8  # whole networks that the prediction is held against
_ALIGNED = 4  # others, from which is known what a network takes beyond its parts
_SHARE = 0.7  # of the time, for parts
_RUNS, _ENOUGH_MS = 300, 100.0  # of a whole network, twice: what disturbs a machine for a moment is not its latency
_TRIES = 20  # proposals for each that is wanted, where most are over budget


class Meter:
    """Measures parts and whole networks, as they will run. Use it as a context: the number of threads is torch's own.

    Args:
        setting: device, batch, threads.

    Raises:
        UsageError: the device is not there.
    """

    def __init__(self, setting: LatencySetting) -> None:
        check_device(setting)
        import torch

        from igcsearch.nn.plans import PlanTimes

        self.setting, self._torch = setting, torch
        self._threads = torch.get_num_threads()
        torch.set_num_threads(setting.threads)
        self._known = PlanTimes(torch.device(setting.device))
        self.label = self._known.label

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._known.save()
        self._torch.set_num_threads(self._threads)

    def part(self, part: Part) -> Times:
        """Milliseconds of a part by its fastest plan; from the device's cache where it was measured before."""
        from igcsearch.nn.plans import part_ms

        return part_ms(part, self.setting.batch, self._known)

    def network(self, architecture: Architecture) -> dict[str, Any]:
        """Latency of a whole network, optimized for inference, as `nn.measure.latency` gives it; the calmer of two rounds."""
        from igcsearch.nn import build, measure

        how: dict[str, Any] = {
            "device": self.setting.device,
            "batch": self.setting.batch,
            "threads": self.setting.threads,
        }
        ready = measure.optimized(build(architecture, seed=0), known=self._known, **how)
        once = measure.latency(ready, runs=5, **how)["median_ms"]
        runs = max(30, min(_RUNS, int(_ENOUGH_MS / once)))
        return min((measure.latency(ready, runs=runs, **how) for _ in range(2)), key=lambda found: found["median_ms"])


def check_device(setting: LatencySetting) -> None:
    """Raise UsageError where the latency device is not on this machine."""
    if setting.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("latency device 'cuda': torch sees no GPU on this machine; give --latency-device cpu")


@dataclass(frozen=True)
class Progress:
    """How far the measuring of a table is."""

    setting: LatencySetting
    done: int
    of: int
    limit_s: float


def measure_table(
    space: Space,
    problem: Problem,
    setting: LatencySetting,
    *,
    seed: int,
    limit_s: float,
    tell: Callable[[Progress], None] = lambda progress: None,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    meter: Callable[[LatencySetting], Meter] | None = None,
) -> LatencyTable:
    """Measure a table for a space.

    Args:
        problem: its budget bounds the proposals that are looked at.
        limit_s: seconds, after which no more parts are begun with; whole networks come to a few more.
        tell: called before the first part and then now and then; not where the budget cannot be met.
        stopped: True ends it by KeyboardInterrupt.
        clock, meter: for tests.

    Raises:
        UsageError: the space's smallest network is far too slow for the budget, or there is nothing to measure.
    """
    begin = clock()
    rng = random.Random(f"latency {seed}")
    smallest = space.smallest(problem)
    proposals = _proposals(space, problem, rng, PROPOSALS)
    if smallest is None and not proposals:
        raise UsageError(f"search space {space.name!r} made no proposal within the budget to measure; raise the budget")
    fresh = _proposals(space, problem, rng, CHECKED)
    first = smallest or min(proposals, key=lambda each: each.macs)

    def late(share: float) -> bool:
        if stopped():
            raise KeyboardInterrupt
        return clock() - begin > share * limit_s

    with (meter or Meter)(setting) as measuring:
        found = measuring.network(first)
        check_latency(space.name, problem.budget, found["median_ms"], setting.words)
        wanted = _most_frequent(first, proposals)
        measured: list[tuple[Part, Times]] = []
        for part in wanted:
            if measured and late(_SHARE):
                break
            if len(measured) % 20 == 0:
                tell(Progress(setting, len(measured), len(wanted), limit_s))
            measured.append((part, measuring.part(part)))
        place = {name: str(found[name]) for name in ("device", "torch")}
        table = replace(make_table(setting, measured), place=place)
        beyond = [found["median_ms"] - table.predict(first)]
        for network in proposals[: _ALIGNED - 1]:
            if late(1.0):
                break
            beyond.append(measuring.network(network)["median_ms"] - table.predict(network))
        table = replace(table, beyond_ms=statistics.median(beyond))
        checks: list[tuple[float, float]] = []
        for network in fresh:
            if checks and late(1.0):
                break
            checks.append((table.predict(network), measuring.network(network)["median_ms"]))
        return replace(table, checks=tuple(checks))


def _proposals(space: Space, problem: Problem, rng: random.Random, count: int) -> list[Architecture]:
    """Random proposals within the budget; fewer where most are refused or over it."""
    found: list[Architecture] = []
    for _ in range(_TRIES * count):
        try:
            proposed = space.propose(RandomTrial(rng), problem)
        except UsageError:
            continue
        if problem.budget.admits(*proposed.cost):
            found.append(proposed)
        if len(found) == count:
            break
    return found


def _most_frequent(first: Architecture, proposals: Sequence[Architecture]) -> list[Part]:
    """The distinct parts: those of the first network, then those of the proposals, the most frequent ones first."""
    known = {part.key: part for network in (first, *proposals) for part in parts(network)}
    often = Counter(part.key for network in proposals for part in parts(network))
    own = {part.key for part in parts(first)}
    return sorted(known.values(), key=lambda part: (part.key not in own, -often[part.key]))
