"""Floor 6b: search. One coordinator asks and tells Optuna; engines place and run candidates; a study holds everything.

The way of a proposal: `samplers` -> the space -> `settle` (in closed form) -> `coordinator` -> an engine's worker ->
`coordinator` -> the storage -> `study`. Nothing here imports torch but the worker's trainer.
"""

from typing import TYPE_CHECKING

from igcsearch.lazy import lazy

if TYPE_CHECKING:
    from .candidate import Candidate
    from .config import COSTS, ENGINES, SAMPLERS, STOPPING, SearchConfig
    from .run import run_search
    from .study import Study, open_study
else:
    __getattr__ = lazy(
        __name__,
        {
            "COSTS": ".config",
            "Candidate": ".candidate",
            "ENGINES": ".config",
            "SAMPLERS": ".config",
            "STOPPING": ".config",
            "SearchConfig": ".config",
            "Study": ".study",
            "open_study": ".study",
            "run_search": ".run",
        },
    )

__all__ = ["COSTS", "ENGINES", "SAMPLERS", "STOPPING", "Candidate", "SearchConfig", "Study", "open_study", "run_search"]
