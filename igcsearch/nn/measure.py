"""Measured cost: fvcore's count, torch's own counter, and latency. Floor 3; fvcore is imported when called."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..errors import UsageError
from .base import Network
from .optimized import OptimizedNetwork

if TYPE_CHECKING:
    from .plans import PlanTimes

_COUNTED = ("conv", "linear", "addmm")


class FvcoreCount(NamedTuple):
    """fvcore's figures for one image: convolutions and linear layers (MACs), and its own total (batch norm and all)."""

    macs: int
    total: int


def fvcore_macs(network: Network) -> FvcoreCount:
    """Count one image through the plain network in eval mode; one multiply-add is one (`fvcore.nn.FlopCountAnalysis`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # importing fvcore on torch 2.15
        from fvcore.nn import FlopCountAnalysis
    plain = _plain_copy(network)
    analysis = FlopCountAnalysis(plain, example_images(plain, 1))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with (
        torch_threads(1),
        warnings.catch_warnings(),
    ):  # several threads take longer for one image, on a busy machine much longer
        warnings.simplefilter("ignore")  # tracing warns about Python values and its own deprecation
        operators = analysis.by_operator()
        total = analysis.total()
    return FvcoreCount(int(sum(operators[name] for name in _COUNTED)), int(total))


def torch_flops(network: Network) -> int:
    """Floating-point operations of one image by `torch.utils.flop_counter`: twice the multiply-adds."""
    from torch.utils.flop_counter import FlopCounterMode

    plain = _plain_copy(network)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        plain(example_images(plain, 1))
    return int(counter.get_total_flops())


def macs_executed(network: Network | OptimizedNetwork) -> int:
    """Multiply-adds that one image costs as the network runs it, by `torch.utils.flop_counter`.

    More than the specification's where a product is multiplied out: the dense matrix, and in training the multiplication itself.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    place = next(iter(network.state_dict().values())).device
    with counter, torch.no_grad():
        network(example_images(network, 1).to(place))
    return int(counter.get_total_flops()) // 2


def fused_handles() -> dict[str, Any]:
    """Counting rules of the fused operators for fvcore: `FlopCountAnalysis(net, x).set_op_handle(**fused_handles())`."""
    from .fused.shared import product_macs

    def count(inputs: list[Any], outputs: list[Any]) -> int:
        weights = [value.type().sizes() for value in inputs[1].node().inputs()]
        return product_macs(outputs[0].type().sizes(), weights)

    return {"igcsearch::product": count, "igcsearch::folded": count}


def optimized(
    network: Network, *, device: str = "cpu", batch: int = 1, threads: int = 1, known: PlanTimes | None = None
) -> OptimizedNetwork:
    """A copy of the network as fast as it runs there: its plans are measured on that device, with that batch and those threads.

    Args:
        known: times of that device with those threads, which what is measured now joins.

    Raises:
        UsageError: as `latency`.
    """
    place = _checked_place(device, batch=batch, threads=threads)
    copied = copy.deepcopy(network).to(place)
    with torch_threads(threads):
        return copied.optimize_for_inference(example_images(network, batch).to(place), known=known)


def latency(
    network: Network | OptimizedNetwork,
    *,
    device: str = "cpu",
    batch: int = 1,
    threads: int = 1,
    dtype: str = "float32",
    runs: int = 30,
) -> dict[str, Any]:
    """Time of one forward pass in eval mode after a warm-up. One that is optimized runs in the memory format of its own.

    Args:
        device: cpu, cuda or cuda:N.
        batch: images a pass.
        threads: of torch on the CPU.
        dtype: float32, bfloat16 or float16.
        runs: timed passes.

    Returns:
        {"median_ms", "p90_ms", "device", "threads", "batch", "dtype", "runs", "execution" (plain, auto, or optimized), "torch"}.

    Raises:
        UsageError: an unknown dtype, a device that is not there, or sizes below 1.
    """
    return latencies([network], device=device, batch=batch, threads=threads, dtype=dtype, runs=runs)[0]


def latencies(
    networks: Sequence[Network | OptimizedNetwork],
    *,
    device: str = "cpu",
    batch: int = 1,
    threads: int = 1,
    dtype: str = "float32",
    runs: int = 30,
) -> list[dict[str, Any]]:
    """`latency` of each of the networks, their passes taking turns: on a machine that does other things their ratios hold."""
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in types:
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join(types)}")
    place = _checked_place(device, batch=batch, threads=threads, runs=runs)
    ready: list[tuple[nn.Module, torch.Tensor, str]] = []
    for network in networks:
        copied = copy.deepcopy(network).to(device=device, dtype=types[dtype]).eval()
        images = example_images(network, batch).to(device=device, dtype=types[dtype])
        execution = "optimized"
        if isinstance(copied, Network):
            execution = copied.execution
            copied = copied.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        ready.append((copied, images, execution))
    with torch_threads(threads):
        found = _time_passes([(copied, images) for copied, images, _ in ready], runs)
    return [
        {
            "median_ms": statistics.median(times),
            "p90_ms": times[min(len(times) - 1, round(0.9 * (len(times) - 1)))],
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
            "threads": threads,
            "batch": batch,
            "dtype": dtype,
            "runs": runs,
            "execution": execution,
            "torch": torch.__version__,
        }
        for times, (_, _, execution) in zip(found, ready, strict=True)
    ]


def _checked_place(device: str, **counts: int) -> torch.device:
    """The device; UsageError where it is not there, or for a count below 1."""
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device} asked for, but torch sees no GPU; use cpu")
    if min(counts.values()) < 1:
        *most, last = (f"{name} {value}" for name, value in counts.items())
        raise UsageError(f"{', '.join(most)} and {last} must each be at least 1")
    return place


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of torch within; a context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _time_passes(networks: Sequence[tuple[nn.Module, torch.Tensor]], runs: int) -> list[list[float]]:
    """Sorted milliseconds of `runs` passes of each, in turn, after a tenth as many (at least 3) untimed ones."""
    times: list[list[float]] = [[] for _ in networks]
    warm_up = max(3, runs // 10)
    for run in range(warm_up + runs):
        for (network, images), into in zip(networks, times, strict=True):
            wait = torch.cuda.synchronize if images.is_cuda else (lambda: None)
            wait()
            start = time.perf_counter()
            network(images)
            wait()
            if run >= warm_up:
                into.append((time.perf_counter() - start) * 1e3)
    return [sorted(each) for each in times]


def _plain_copy(network: Network) -> Network:
    return copy.deepcopy(network).to("cpu", torch.float32).eval().set_execution("plain")


def example_images(network: Network | OptimizedNetwork, batch: int) -> torch.Tensor:
    """Random images for a network, always the same ones; (batch, C, H, W)."""
    architecture = network.architecture
    generator = torch.Generator().manual_seed(0)
    return torch.randn(
        batch, architecture.in_channels, architecture.image_size, architecture.image_size, generator=generator
    )
