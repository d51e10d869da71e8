"""Devices are never swapped in silence, and settings are put back."""

import pytest
import torch

from igcsearch.errors import UsageError
from igcsearch.training import resolve_device
from igcsearch.training.device import repeatable, resolve_precision


@pytest.mark.parametrize("gpus", [0, 2])
def test_auto_takes_a_gpu_where_there_is_one(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rule: auto is the GPU that torch finds, else the CPU; a GPU that is not there is refused.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert resolve_device("auto").type == ("cuda" if gpus else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")
    if gpus:
        assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match=f"'cuda:2' was asked for, but torch finds {gpus} GPUs here; use --device cpu"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["cdua", "tpu", "cuda:x", "cpu:1", "", "mps"])
def test_unknown_devices_are_refused(name: str) -> None:
    # Rule: auto, cpu, cuda, cuda:N and nothing else.
    with pytest.raises(UsageError, match="unknown device"):
        resolve_device(name)


def test_precision_is_float32_on_the_cpu_unless_asked_for() -> None:
    # Rule: auto changes nothing on a CPU; a precision that was asked for stands.
    cpu = torch.device("cpu")
    assert [resolve_precision(name, cpu) for name in ("auto", "bfloat16", "float32")] == [
        "float32",
        "bfloat16",
        "float32",
    ]


def test_settings_come_back_even_after_an_error() -> None:
    # Rule: threads, deterministic algorithms and cuDNN's settings are as before, whatever happened within.
    def state() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.backends.cudnn.deterministic,
        )

    before = state()

    def fail() -> None:
        with repeatable(torch.device("cpu"), threads=2):
            assert torch.get_num_threads() == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert state() == before
    with pytest.raises(UsageError, match="threads is 0"), repeatable(torch.device("cpu"), threads=0):
        pass
    assert state() == before
