"""Floor 6b: search. One coordinator asks and tells Optuna; engines place and run candidates; a study holds everything.

The way of a proposal: `samplers` -> the space -> `settle` (in closed form) -> `coordinator` -> an engine's worker ->
`coordinator` -> the storage -> `study`. Nothing here imports torch but the worker's trainer.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .candidate import Candidate
    from .config import COSTS, ENGINES, SAMPLERS, STOPPING, SearchConfig
    from .run import run_search
    from .study import Study, open_study
else:
    _HOME = {
        "COSTS": "config",
        "Candidate": "candidate",
        "ENGINES": "config",
        "SAMPLERS": "config",
        "STOPPING": "config",
        "SearchConfig": "config",
        "Study": "study",
        "open_study": "study",
        "run_search": "run",
    }

    def __getattr__(name: str) -> object:
        """Import a public name at its first use: the configuration costs no import of Optuna."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = ["COSTS", "ENGINES", "SAMPLERS", "STOPPING", "Candidate", "SearchConfig", "Study", "open_study", "run_search"]
