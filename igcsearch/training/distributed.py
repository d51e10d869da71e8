"""Several processes that train one network: who they are, and the few things that they do together.

`Group` is made in each process, from torchrun's environment, from a process group that is there already, or from given
values, and handed to `train`. What they share is a state and its order, never a decision: process 0 decides and tells.
"""

from __future__ import annotations

import gc
import inspect
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from igcsearch.errors import UsageError, near
from igcsearch.machine import available_cores
from igcsearch.training.device import resolve_device

BACKENDS = ("nccl", "gloo")
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LET_GO_S = 0.1
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """One process of several that train one network together.

    Attributes:
        rank: which, from 0.
        world_size: of how many.
        backend: nccl (each on a GPU of its own) or gloo (CPU, or CUDA tensors that travel over the CPU).
        device: where this process computes.
        global_statistics: batch norm over the images of all processes; else each over its own, whose running averages
            are averaged after each epoch.
        init_method: where the processes meet, as `torch.distributed.init_process_group` takes it.
        patience_s: seconds after which a process that waits for others gives up.
    """

    rank: int
    world_size: int
    backend: str = "gloo"
    device: str = "cpu"
    global_statistics: bool = True
    init_method: str = "env://"
    patience_s: float = 1800.0

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError(f"unknown backend {self.backend!r}{near(self.backend, BACKENDS)}; use nccl or gloo")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank {self.rank} of {self.world_size} processes; ranks count from 0 to world_size - 1")
        if self.backend == "nccl" and not self.device.startswith("cuda"):
            raise UsageError(f"backend nccl moves data between GPUs, the device is {self.device}; use gloo")

    @classmethod
    def from_environment(
        cls, device: str = "auto", *, backend: str | None = None, global_statistics: bool = True
    ) -> Group:
        """The process that torchrun (or whoever sets its variables) started this one as.

        Args:
            device: auto and cuda give each process of a machine its own GPU; cuda:N puts all of them on that one.
            backend: nccl or gloo; None: nccl where each process has a GPU of its own.

        Raises:
            UsageError: variables that are missing or no numbers, or fewer GPUs than processes.
        """
        missing = [name for name in _VARIABLES if name not in os.environ]
        if missing:
            raise UsageError(f"{', '.join(missing)} not in the environment; start the processes with torchrun")
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        try:
            rank, world, local, here = (int(os.environ[n]) if n in os.environ else None for n in names)
        except ValueError:
            found = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
            raise UsageError(f"{found}: these must be numbers; start the processes with torchrun") from None
        assert rank is not None
        assert world is not None
        place = resolve_device(device)
        own = place.type == "cuda" and ":" not in device
        if own:
            local = rank if local is None else local
            check_devices(here or local + 1, place)
            place = torch.device("cuda", local)
        backend = backend or ("nccl" if place.type == "cuda" and (own or world == 1) else "gloo")
        return cls(rank, world, backend, str(place), global_statistics)

    @classmethod
    def current(cls, device: str = "auto", *, global_statistics: bool = True) -> Group:
        """The process group that is there already (Ray Train makes one); `auto` takes the GPU that torch is set to."""
        place = resolve_device(device)
        if place.type == "cuda" and ":" not in device:
            place = torch.device("cuda", torch.cuda.current_device())
        backend = "nccl" if place.type == "cuda" and "nccl" in dist.get_backend() else "gloo"
        return cls(dist.get_rank(), dist.get_world_size(), backend, str(place), global_statistics)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Meet the others, and part at the end; where they have met already, nothing is done."""
        if dist.is_initialized():
            if (dist.get_rank(), dist.get_world_size()) != (self.rank, self.world_size):
                raise UsageError(
                    f"rank {self.rank} of {self.world_size} was given, but this process is rank {dist.get_rank()} of "
                    f"{dist.get_world_size()}; use Group.current()"
                )
            with _calm():
                yield
            return
        place = torch.device(self.device)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        dist.init_process_group(
            self.backend,
            init_method=self.init_method,
            rank=self.rank,
            world_size=self.world_size,
            timeout=timedelta(seconds=self.patience_s),
            device_id=place if self.backend == "nccl" else None,
        )
        try:
            with _calm():
                yield
        finally:
            # DistributedDataParallel never lets go of its group, so gloo's threads stay; one that still held a tensor when
            # Python ends would abort the process: let them put down the last ones.
            gc.collect()
            time.sleep(_LET_GO_S)
            dist.destroy_process_group()

    def lead(self, work: Callable[[], T]) -> T:
        """What `work` gives in process 0, which alone does it; what it raises is raised in all."""
        box: list[tuple[T | None, Exception | None]] = [(None, None)]
        error = None
        if self.rank == 0:
            try:
                box = [(work(), None)]
            except Exception as caught:
                error = caught
                box = [(None, _portable(caught))]
        dist.broadcast_object_list(box, src=0)
        value, told = box[0]
        if told is not None:
            raise error or told
        return value  # type: ignore[return-value]

    def agree(self, work: Callable[[], T]) -> T:
        """What `work` gives here; if it raises in any process, all of them raise."""
        value, error = None, None
        try:
            value = work()
        except Exception as caught:
            error = caught
        told: list[Exception | None] = [None] * self.world_size
        dist.all_gather_object(told, None if error is None else _portable(error))
        first = error or next((other for other in told if other is not None), None)
        if first is not None:
            raise first
        return value  # type: ignore[return-value]

    def sum_(self, tensor: Tensor) -> Tensor:
        """The tensor, which now holds the sum over all processes, the same bits in each."""
        dist.all_reduce(tensor)
        return tensor

    @torch.no_grad()
    def spread_(self, tensors: Iterable[Tensor]) -> None:
        """Put process 0's values into the tensors of all."""
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for same in kinds.values():  # state dicts of all processes have one order
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.broadcast(flat, src=0)
            for tensor, values in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(values.view(tensor.shape))

    def replicate(self, network: nn.Module) -> DistributedDataParallel:
        """The network, whose backward pass now averages the gradients of all processes; buffers are left alone."""
        own = [torch.device(self.device).index] if self.backend == "nccl" else None
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        # torch 2.15 renamed it
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {name: False}
        return DistributedDataParallel(network, device_ids=own, **options)


def in_environment() -> bool:
    """Whether torchrun, or another launcher with its variables, started this process."""
    return all(name in os.environ for name in _VARIABLES)


def check_devices(processes: int, place: torch.device) -> None:
    """Refuse more processes than there are GPUs or cores for; two go on any machine.

    Raises:
        UsageError: with both numbers.
    """
    cores = available_cores()
    if place.type != "cuda" and processes > max(2, cores):
        raise UsageError(f"{processes} devices were asked for, but this machine has {cores} cores; use at most {cores}")
    gpus = torch.cuda.device_count() if place.type == "cuda" else processes
    if processes > gpus:
        raise UsageError(
            f"{processes} devices were asked for, but torch finds {gpus} GPU{'s' if gpus != 1 else ''} here; use at most "
            f"{gpus}, or --device cpu"
        )


@contextmanager
def _calm() -> Iterator[None]:
    """Without the advice about strides of dimensions of size 1 (depthwise weights), which cost nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        yield


def _portable(error: Exception) -> Exception:
    """The error, or its text where it cannot travel to another process."""
    try:
        return error if type(pickle.loads(pickle.dumps(error))) is type(error) else RuntimeError(str(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
