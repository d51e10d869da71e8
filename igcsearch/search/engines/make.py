"""`make_engine`: the engine that a configuration names. Ray is imported only where it is asked for."""

from __future__ import annotations

from pathlib import Path

from igcsearch.errors import UsageError
from igcsearch.machine import available_cores
from igcsearch.search.config import SearchConfig

from . import Engine


def make_engine(config: SearchConfig, folder: Path) -> Engine:
    """The engine of one run of a search.

    Args:
        config: names it.
        folder: of the study, where checkpoints lie unless the configuration says otherwise.
    """
    if config.engine == "ray":
        cores = available_cores()
        for name in ("cpus_per_candidate", "devices_per_candidate"):
            asked = getattr(config, name)
            if config.address is None and asked is not None and asked > max(2, cores):
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{option} {asked} is more than the {cores} cores here; lower it, or join a cluster (--address)"
                )
        from .ray_engine import RayEngine

        return RayEngine(config, folder)
    from .local import LocalEngine

    return LocalEngine(config)
