"""Which way each block runs at inference: measured where it will run, and remembered for the device. Floor 3.

`optimize_for_inference` times the ways of inference.py on the very shapes of an example, all of them in turn, and takes the
fastest by the median; networks share what was found, block by block, through one JSON file a device in the user's cache
(`PlanTimes`). From the same times searches predict the latency of networks that were never built (`part_ms`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..files import atomic_write
from ..machine import Elsewhere, available_cores
from ..spec import Block
from ..spec.parts import Part
from .fused.library import kernels, source_hash
from .inference import PLANS, InferenceNetwork, PlannedBlock, block_layers, default_plan
from .network import BlockLayer, StagedNetwork
from .workspace import Workspace

log = logging.getLogger("igcsearch")

VERSION = 2  # of what the plans are: raised when inference.py makes something else of one
RUNS = 9  # timed passes of a way, after one that is not
ENOUGH_S = 0.15  # of one way: slow blocks are timed less often, never under three times
QUIET = 0.25  # of the machine may be busy with something else where plans are remembered
NEAR = 1.1  # times of two memory formats nearer than that are measured on whole networks
SAMPLE_S = 0.0003  # of one turn, in as many passes as that takes


def optimize_for_inference(
    network: StagedNetwork, example: Tensor | None = None, *, measure: bool = True, known: PlanTimes | None = None
) -> InferenceNetwork:
    """The network for inference: norms folded, every block by its fastest plan. Same results to rounding; float32.

    Args:
        network: in any mode; it is left as it is.
        example: images (N, in_channels, H, W) on the device where it will run; None: one image of the architecture's size on the
            network's device. Plans are for its batch, size, and the number of threads of torch. They are remembered for the
            device unless something else kept it busy while they were measured.
        measure: False takes the static table.
        known: times of the network's device that are at hand already.

    Returns:
        An `InferenceNetwork`; its `plans` say what was chosen.

    Raises:
        UsageError: an example that is not float32, or a norm that cannot be folded.
    """
    if example is not None and example.dtype is not torch.float32:
        raise UsageError(f"an optimized network runs in float32, the example is {example.dtype}; give float32 images")
    device = next(network.parameters()).device
    if example is None:
        architecture = network.architecture
        example = torch.zeros(
            1,
            architecture.in_channels,
            architecture.image_size,
            architecture.image_size,
            dtype=torch.float32,
            device=device,
        )
    if not measure:
        return InferenceNetwork(network, [default_plan(layer, device) for layer in block_layers(network)], False)
    known = PlanTimes(device) if known is None else known
    candidates = []
    for channels_last in (False, True):
        plans, seconds = _fastest(network, example, channels_last, known)
        candidates.append((seconds, InferenceNetwork(network, plans, channels_last)))
    known.save()
    candidates.sort(key=lambda found: found[0])
    if candidates[1][0] < NEAR * candidates[0][0]:  # too near for the sum of blocks to say
        timed = in_turn([partial(net, example) for _, net in candidates])
        return candidates[timed.index(min(timed))][1]
    return candidates[0][1]


def block_ms(layer: BlockLayer, x_NCHW: Tensor, plans: Sequence[str] = PLANS, runs: int = RUNS) -> dict[str, float]:
    """Milliseconds of a block by each of the plans: medians of passes in turn, in inference mode."""
    ways = [PlannedBlock(layer, plan).to(x_NCHW.device, x_NCHW.dtype).eval() for plan in plans]
    room = Workspace()  # as in a network
    found = in_turn([partial(way, x_NCHW, room) for way in ways], runs)
    return dict(zip(plans, found, strict=True))


def part_ms(part: Part, batch: int, known: PlanTimes) -> tuple[float, float]:
    """Milliseconds of a part of a network by its fastest plan, in both memory formats: (contiguous, channels_last).

    A block is timed by every plan, the head and the classifier as they are.
    """
    shape = (batch, part.channels, part.size, part.size)
    found = []
    for channels_last in (False, True):
        x_NCHW = in_format(torch.rand(shape, dtype=torch.float32, device=known.device), channels_last)
        if part.block is not None and not part.head:
            times = known.of(part.block, x_NCHW, channels_last)
        else:
            times = known.held(shape_key(part.key, x_NCHW, channels_last), partial(_tail_ms, part, x_NCHW))
        found.append(min(times.values()))
    return found[0], found[1]


def _tail_ms(part: Part, x_NCHW: Tensor) -> dict[str, float]:
    """Milliseconds of the head's steps, or of pooling and the linear layer."""
    if part.block is not None:
        return block_ms(BlockLayer(part.block).to(x_NCHW.device), x_NCHW, ["collapsed"])
    linear = nn.Linear(part.channels, part.num_classes).to(x_NCHW.device)
    return {"stock": in_turn([lambda: linear(x_NCHW.mean(dim=(2, 3)))])[0]}


def in_format(x_NCHW: Tensor, channels_last: bool) -> Tensor:
    """The tensor in one of the memory formats."""
    return x_NCHW.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _fastest(network: StagedNetwork, example: Tensor, channels_last: bool, known: PlanTimes) -> tuple[list[str], float]:
    """The best plan of every block, and their milliseconds together."""
    x_NCHW = in_format(example, channels_last)
    blocks = (block for _, block in network.architecture.blocks())
    plans, total = [], 0.0
    for layer, block in zip(block_layers(network), blocks, strict=True):
        times = known.of(block, x_NCHW, channels_last, layer)
        plan = min(times, key=lambda plan: times[plan])
        plans.append(plan)
        total += times[plan]
        with torch.inference_mode():
            x_NCHW = PlannedBlock(layer, plan).eval()(x_NCHW)
    return plans, total


def _distinct(layer: BlockLayer) -> list[str]:
    """The plans of a block that differ in what runs."""
    found: dict[tuple[Any, ...], str] = {}
    for plan in PLANS:
        block = PlannedBlock(layer, plan)
        shape = tuple(str(part) for part in block.parts)
        kinds = (*(type(part).__name__ for part in block.modules()), shape)
        found.setdefault(kinds, plan)
    return list(found.values())


@torch.inference_mode()
def in_turn(calls: Sequence[Callable[[], Any]], runs: int = RUNS) -> list[float]:
    """Median milliseconds of each call, the calls taking turns.

    A turn is as many calls as take SAMPLE_S, behind one that is not timed: what the other calls left in the caches is not the
    call's own, and single calls of some microseconds are longer than they are in a network.
    """
    wait: Callable[[], object] = torch.cuda.synchronize if torch.cuda.is_initialized() else int
    first = []
    for call in calls:
        call()
        wait()
        begin = time.perf_counter()
        call()
        wait()
        first.append(time.perf_counter() - begin)
    runs = max(3, min(runs, int(ENOUGH_S / max(*first, 1e-6)))) if len(first) > 1 else runs
    repeats = [max(1, min(100, round(SAMPLE_S / max(seconds, 1e-6)))) for seconds in first]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, count, into in zip(calls, repeats, times, strict=True):
            if count > 1:
                call()
            wait()
            begin = time.perf_counter()
            for _ in range(count):
                call()
            wait()
            into.append(1e3 * (time.perf_counter() - begin) / count)
    return [statistics.median(into) for into in times]


def shape_key(name: str, x_NCHW: Tensor, channels_last: bool) -> str:
    """What `PlanTimes` has the times of something under, on an input of that shape and memory format."""
    shape, dtype = "x".join(map(str, x_NCHW.shape)), str(x_NCHW.dtype).removeprefix("torch.")
    return f"{name} {shape} {dtype} {'last' if channels_last else 'first'}"


class PlanTimes:
    """What was measured on a device before: key -> plan -> milliseconds. Of this torch, these kernels, this number of threads.

    Attributes:
        label: of device, torch, kernels and threads: figures of equal labels may be compared.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
        compiled = "with kernels" if kernels() is not None else "without kernels"
        facts = [name, torch.__version__, source_hash(), compiled, f"plans {VERSION}", str(torch.get_num_threads())]
        self.label = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
        self._path = cache_folder() / f"{self.label}.json"
        self._facts = facts
        self.times = self._read()
        self._before = set(self.times)
        self._elsewhere = Elsewhere()

    def _read(self) -> dict[str, dict[str, float]]:
        """What the file holds; nothing where it cannot be read."""
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))["blocks"].items()
            return {
                key: {plan: float(ms) for plan, ms in ways.items()}
                for key, ways in held
                if ways and set(ways) <= set(PLANS)
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def of(
        self, block: Block, x_NCHW: Tensor, channels_last: bool, layer: BlockLayer | None = None
    ) -> dict[str, float]:
        """Plan -> milliseconds of a block for such an input, measured now if it is new; `layer` where there is one already."""

        def measured() -> dict[str, float]:
            made = layer or BlockLayer(block).to(self.device)
            return block_ms(made, x_NCHW, _distinct(made))

        return self.held(
            shape_key(hashlib.sha256(block.text.encode()).hexdigest()[:12], x_NCHW, channels_last), measured
        )

    def held(self, key: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What is known under a key, or else what `measure` gives."""
        if key not in self.times:
            self.times[key] = measure()
        return self.times[key]

    def save(self) -> None:
        """Write what is new beside what others wrote meanwhile; a cache that cannot be written is done without.

        Nothing is written if something else kept the machine busy since the last time: such figures do not last.
        """
        fresh = {key: times for key, times in self.times.items() if key not in self._before}
        if not fresh:
            return
        busy, self._elsewhere = self._elsewhere.cores() or 0.0, Elsewhere()
        if busy > QUIET * available_cores():
            log.debug("plans were measured while something else kept %.1f cores busy; they are not remembered", busy)
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            whole = {"facts": self._facts, "blocks": {**self._read(), **fresh}}
            atomic_write(self._path, json.dumps(whole, indent=1) + "\n")
        except OSError:
            return
        self._before |= set(fresh)


def cache_folder() -> Path:
    """Where plans are remembered."""
    from platformdirs import user_cache_path

    return user_cache_path("igcsearch") / "plans"


def _processor() -> str:
    """The processor's name."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
