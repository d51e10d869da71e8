"""Where and how exactly: device, number of threads, autocast, and the settings that make runs repeat themselves."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from igcsearch.errors import UsageError, near

_DETERMINISTIC: Any = torch.utils.deterministic  # its module type hides the property from type checkers
_DEVICES = ("auto", "cpu", "cuda")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device meant by auto (a GPU when there is one), cpu, cuda or cuda:N.

    Raises:
        UsageError: an unknown device, or a GPU where torch finds none (never falls back in silence).
    """
    text = str(device)
    kind, _, index = text.partition(":")
    if kind not in _DEVICES or (index and (kind != "cuda" or not index.isdigit())):
        raise UsageError(f"unknown device {text!r}{near(text, _DEVICES)}; use auto, cpu, cuda or cuda:N")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return torch.device("cuda", 0) if gpus else torch.device("cpu")
    if kind == "cpu":
        return torch.device("cpu")
    if int(index or 0) >= gpus:
        raise UsageError(f"device {text!r} was asked for, but torch finds {gpus} GPUs here; use --device cpu or auto")
    return torch.device("cuda", int(index or 0))


def resolve_precision(precision: str, device: torch.device) -> str:
    """float32, bfloat16 or float64: auto is bfloat16 on a GPU that computes in it, float32 elsewhere."""
    if precision != "auto":
        return precision
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which convolutions and products run in the (resolved) precision; weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def repeatable(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """Settings under which the same seed, device and thread count give the same numbers; put back at the end.

    Args:
        device: on the CPU, torch's deterministic algorithms (they cost nothing there); on a GPU, those of cuDNN and
            cuBLAS.
        threads: of torch, within this context; None leaves them alone.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads is {threads!r}; it must be a whole number of at least 1")
    before_threads = torch.get_num_threads()
    before = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    strict = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    fill = _DETERMINISTIC.fill_uninitialized_memory
    try:
        if threads is not None and threads != before_threads:
            torch.set_num_threads(threads)
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        else:
            torch.use_deterministic_algorithms(True)
            _DETERMINISTIC.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        _DETERMINISTIC.fill_uninitialized_memory = fill
        if torch.get_num_threads() != before_threads:
            torch.set_num_threads(before_threads)
