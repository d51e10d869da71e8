"""A Ray cluster for one run: started on this machine, or joined; what it has room for; and its silence.

Ray writes to the console, and puts its own handlers for signals in the place of ours: both are undone here. Its files lie in a
folder that goes at the end of the run, also where the driver is killed (ray_guard.py).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_logging

from igcsearch.errors import UsageError

from . import ray_guard

_DEDUPLICATORS: list[Any] = [
    getattr(ray_logging, name) for name in ("stdout_deduplicator", "stderr_deduplicator") if hasattr(ray_logging, name)
]
_TRIES, _TRY_SECONDS = 3, 3.0  # of a connection to an address
_LONGEST_TEMP = 40  # characters: Ray's sockets lie below it, and their paths have a limit of 107


@dataclass(frozen=True)
class Share:
    """What one candidate gets of a node."""

    cpus: int
    gpus: float = 0.0
    devices: int = 1  # processes that each get as much

    def fits(self, resources: dict[str, float]) -> int:
        """How many candidates a node with these resources can run at once."""
        by_cpu = int(resources.get("CPU", 0) / self.cpus + 1e-9)
        if not self.gpus:
            return by_cpu
        on_one = int(1 / self.gpus + 1e-9)  # a fraction lies on one GPU
        return min(by_cpu, int(resources.get("GPU", 0)) * on_one)

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU{'s' if self.gpus != 1 else ''}" if self.gpus else ""
        return f"{self.cpus} CPU{'s' if self.cpus != 1 else ''}{gpus}"


class RayCluster:
    """A connection to Ray, one for the process. Where the process was connected before, that connection is used and left.

    Args:
        address: HOST:PORT or auto; None starts Ray on this machine.
        cpus: of a Ray that is started.
        dashboard: whether a Ray that is started has one.
    """

    def __init__(self, address: str | None, cpus: int, dashboard: bool = False) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self._cpus, self._dashboard = cpus, dashboard
        self._ours = False
        self._temp: Path | None = None
        self._guard: subprocess.Popen[str] | None = None
        self._levels: dict[str, int] = {}
        self._nodes: tuple[float, list[dict[str, Any]]] = (float("-inf"), [])

    def connect(self) -> None:
        """Start or join.

        Raises:
            UsageError: an address that cannot be reached, with how long it was tried; a Ray of another version.
        """
        self._quieten()
        self._temp = Path(tempfile.mkdtemp(prefix="igc-ray-"))
        script = [sys.executable, "-I", ray_guard.__file__, str(self._temp)]
        self._guard = subprocess.Popen(
            script,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        if ray.is_initialized():
            return
        if self.address is not None:
            _reach(self.address)
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "ignore_reinit_error": False}
        if self.address is None:
            options |= {"address": "local", "num_cpus": self._cpus, "include_dashboard": self._dashboard}
            if len(str(self._temp)) <= _LONGEST_TEMP:
                options["_temp_dir"] = str(self._temp)
        else:
            options["address"] = self.address
        begin = time.monotonic()
        with handlers_kept(), environment(RAY_USAGE_STATS_ENABLED="0"):
            try:
                ray.init(**options)
                self._ours = True
            except Exception as error:
                took = time.monotonic() - begin
                self.close()
                what = "Ray cannot be started here" if self.address is None else f"no Ray at {self.address!r}"
                cure = "see the cause" if self.address is None else _TOKEN_CURE
                raise UsageError(f"{what} (tried for {took:.0f} s: {_first_line(error)}); {cure}") from None
        if self.address is None:
            self._watch(ray_guard.below(os.getpid()))

    def close(self) -> None:
        """Disconnect; a Ray that was started here is stopped, and its files are removed."""
        if self._ours:
            with suppress(Exception), handlers_kept():
                ray.shutdown()
            self._ours = False
        if self._guard is not None:
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard.kill()
            self._guard.wait()
            self._guard = None
        if self._temp is not None:
            shutil.rmtree(self._temp, ignore_errors=True)
            self._temp = None
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self._levels.clear()
        for printed in _DEDUPLICATORS:
            printed.skip_re = None

    @property
    def started_here(self) -> bool:
        """True if this object started Ray on this machine."""
        return self._ours and self.address is None

    @property
    def folder(self) -> Path:
        """For files of this run; it is removed when the cluster is closed."""
        assert self._temp is not None
        return self._temp

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that live, looked up at most every two seconds."""
        now = time.monotonic()
        if now - self._nodes[0] > 2:
            self._nodes = now, [node for node in ray.nodes() if node["Alive"]]
        return self._nodes[1]

    def room(self, share: Share) -> int:
        """How many candidates of this share the cluster can run at once, were it empty."""
        return sum(share.fits(node["Resources"]) for node in self.nodes()) // share.devices

    def total(self, name: str) -> float:
        """How much of a resource all nodes have together."""
        return float(sum(node["Resources"].get(name, 0) for node in self.nodes()))

    def _watch(self, processes: list[int]) -> None:
        """Have Ray's processes ended with this one, whatever ends it."""
        assert self._guard is not None
        assert self._guard.stdin is not None
        with suppress(OSError):
            self._guard.stdin.write("".join(f"{pid}\n" for pid in processes if pid != self._guard.pid))
            self._guard.stdin.flush()

    def _quieten(self) -> None:
        for name in ("ray", "ray.tune", "ray.train", "ray.data", "ray._private", "ray.serve"):
            logger = logging.getLogger(name)
            self._levels.setdefault(name, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        for (
            printed
        ) in _DEDUPLICATORS:  # through them Ray prints of every worker that dies; this is RAY_DEDUP_LOGS_SKIP_REGEX
            printed.skip_re = re.compile("")


def check_share(cluster: RayCluster, share: Share) -> None:
    """Refuse what no node can give.

    Raises:
        UsageError: with what was asked for and what the cluster has.
    """
    if cluster.room(share) > 0:
        return
    gpus, cpus = cluster.total("GPU"), cluster.total("CPU")
    if share.gpus * share.devices > gpus:
        raise UsageError(
            f"a candidate asks for {share.gpus * share.devices:g} GPUs, but the cluster has {gpus:g}; lower "
            "--gpus-per-candidate or --devices-per-candidate, or join a cluster with GPUs (--address)"
        )
    most = max((node["Resources"].get("CPU", 0) for node in cluster.nodes()), default=0)
    each = f"{share}" if share.devices == 1 else f"{share.devices} times {share}"
    raise UsageError(
        f"a candidate asks for {each}, but the largest of {len(cluster.nodes())} nodes has {most:g} CPUs (the cluster: "
        f"{cpus:g} CPUs, {gpus:g} GPUs); lower --cpus-per-candidate or --threads, or join a larger cluster (--address)"
    )


def _reach(address: str) -> None:
    """Try to connect, a few seconds: Ray itself would take minutes and write to the console."""
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise UsageError(f"address {address!r}: give HOST:PORT of the cluster's head, or auto, on one of its nodes")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"address {address!r} must be HOST:PORT, such as 10.0.0.1:6379, or auto")
    begin, reason = time.monotonic(), ""
    for attempt in range(_TRIES):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY_SECONDS).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        if attempt + 1 < _TRIES:
            time.sleep(1.0)
    raise UsageError(
        f"no Ray at {address!r} (tried {_TRIES} times in {time.monotonic() - begin:.0f} s: {reason}); "
        "give the address of a running cluster"
    )


_TOKEN_CURE = "give the address of a running cluster; one that asks for a token needs RAY_AUTH_MODE=token here too"


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Signal handlers are as before afterwards; Ray's own warnings about what it does are its business."""
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers} if main else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
