"""What is looked at on every node before anything is trained: versions, the place of checkpoints, images in files.

Each node answers a function that needs nothing of igcsearch there (it travels as code), so that a node without igcsearch can
say so.
"""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from igcsearch import __version__
from igcsearch.errors import UsageError

_SECONDS = 90.0  # that a node has for its answer
_CURE = "install the same on every node"


def check_nodes(nodes: list[dict[str, Any]], place: Path, stop: Callable[[], bool]) -> None:
    """Every node must run the same software and write to the same place of checkpoints.

    Args:
        nodes: as `ray.nodes()` describes them.
        place: folder of the checkpoints; it is made here, and taken away again if it was not there.
        stop: True once the user wants it to end.

    Raises:
        UsageError: naming the first node that does not fit, and how.
    """
    token = secrets.token_hex(6)
    made = _make(place)
    mark = place / f".probe-{token}"
    try:
        try:
            mark.write_text(token)
        except OSError as error:
            raise _unwritable(place, "this machine", error.strerror or str(error)) from None
        answers = _ask(nodes, _probe(), (str(place), token), stop)
        for node, answer in zip(nodes, answers, strict=True):
            _judge(_name(node), answer, place)
            if not (place / f".probe-{token}-{answer['node']}").exists():
                raise UsageError(_elsewhere(place, _name(node)))
    finally:
        for path in (mark, *place.glob(f".probe-{token}*")):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def check_files(nodes: list[dict[str, Any]], paths: list[str], stop: Callable[[], bool]) -> None:
    """Images that stay in their files must lie on every node.

    Raises:
        UsageError: naming the path and the node.
    """
    if not paths:
        return
    for node, missing in zip(nodes, _ask(nodes, _missing(), (paths,), stop), strict=True):
        if missing:
            raise UsageError(
                f"data {missing} is missing on node {_name(node)}; images of this size are read from their files on every "
                "node: put them on shared storage, or at the same place of each node"
            )


def _make(place: Path) -> list[Path]:
    """The folders that had to be made, innermost first."""
    made = [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(place, "this machine", error.strerror or str(error)) from None
    return made


def _judge(name: str, answer: dict[str, Any], place: Path) -> None:
    mine = {"python": _minor(platform.python_version()), "igcsearch": __version__, "torch": _version("torch")}
    for what, version in mine.items():
        theirs = answer[what]
        if theirs is None:
            raise UsageError(f"node {name} has no {what}, this machine has {version}; {_CURE}")
        if theirs != version:
            raise UsageError(f"node {name} has {what} {theirs}, this machine has {version}; {_CURE}")
    if answer["other"]:
        raise UsageError(_elsewhere(place, name))
    if answer["error"]:
        raise _unwritable(place, f"node {name}", answer["error"])


def _elsewhere(place: Path, name: str) -> str:
    return (
        f"checkpoints {place}: node {name} does not see this machine's folder there; give --checkpoints a folder on storage "
        "that every node mounts"
    )


def _unwritable(place: Path, where: str, reason: str) -> UsageError:
    return UsageError(
        f"checkpoints {place}: {where} cannot write there ({reason}); give --checkpoints a folder that every node can write"
    )


def _ask(nodes: list[dict[str, Any]], function: Any, arguments: tuple[Any, ...], stop: Callable[[], bool]) -> list[Any]:
    """Call the function once on each node, all at a time.

    Raises:
        UsageError: a node that does not answer in time, or cannot run it.
    """
    options: Any = ray.remote(num_cpus=0, max_retries=0)
    remote = options(function)
    calls = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        ): node
        for node in nodes
    }
    waiting, deadline = list(calls), time.monotonic() + _SECONDS
    while waiting:
        if stop():
            raise KeyboardInterrupt
        if time.monotonic() > deadline:
            names = ", ".join(_name(calls[ref]) for ref in waiting[:3])
            raise UsageError(
                f"node {names} did not answer within {_SECONDS:.0f} s; remove it from the cluster, or repair it"
            )
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0.5)
    answers = []
    for ref, node in calls.items():
        try:
            answers.append(ray.get(ref))
        except ray.exceptions.RayError as error:
            line = (str(error).strip().splitlines() or ["?"])[-1][:200]
            raise UsageError(f"node {_name(node)} cannot run a check ({line}); {_CURE}") from None
    return answers


def _probe() -> Any:
    def probe(place: str, token: str) -> dict[str, Any]:
        import importlib.metadata
        import os
        import platform

        import ray

        answer: dict[str, Any] = {"node": ray.get_runtime_context().get_node_id(), "other": False, "error": ""}
        answer["python"] = ".".join(platform.python_version_tuple()[:2])
        try:
            import igcsearch

            answer["igcsearch"] = igcsearch.__version__
        except ImportError:
            answer["igcsearch"] = None
        try:
            answer["torch"] = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            answer["torch"] = None
        mark = os.path.join(place, f".probe-{token}")
        try:
            with open(mark) as file:
                answer["other"] = file.read() != token
        except FileNotFoundError:
            answer["other"] = True
        except OSError as error:
            answer["error"] = error.strerror or str(error)
        try:
            if not answer["other"]:
                with open(f"{mark}-{answer['node']}", "w") as file:
                    file.write(token)
        except OSError as error:
            answer["error"] = error.strerror or str(error)
        return answer

    return probe


def _missing() -> Any:
    def missing(paths: list[str]) -> str:
        import os

        return next((path for path in paths if not os.path.exists(path)), "")

    return missing


def _name(node: dict[str, Any]) -> str:
    """Host and address, as a user knows a node."""
    return f"{node.get('NodeManagerHostname') or '?'} ({node.get('NodeManagerAddress') or '?'})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
