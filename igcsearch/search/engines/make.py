"""`make_engine`: the engine that a configuration names. Ray is imported only where it is asked for."""

from __future__ import annotations

from pathlib import Path

from igcsearch.search.config import SearchConfig

from . import Engine


def make_engine(config: SearchConfig, folder: Path) -> Engine:
    """The engine of one run of a search.

    Args:
        config: names it.
        folder: of the study, where checkpoints lie unless the configuration says otherwise.
    """
    if config.engine == "ray":
        from .ray_engine import RayEngine

        return RayEngine(config, folder)
    from .local import LocalEngine

    return LocalEngine(config)
