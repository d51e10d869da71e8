"""Floor 4, entries: one published network in a folder (architecture, weights, metrics, card); finding and loading it.

Names resolve in the package's own zoo, then in the user's, then as a path. Reading and listing need no torch; it is
imported when a network is built. Nothing here imports Optuna, Ray, pandas or fvcore: a result does not need the search.
"""

from typing import TYPE_CHECKING

from igcsearch.lazy import lazy

from .entry import Entry, read_folder
from .zoo import find_model, list_entries, list_models, list_references, read_entry, user_zoo, zoos

if TYPE_CHECKING:
    from .card import make_card
    from .drawing import draw
    from .models import create_model, load
    from .write import check_target, write_entry
else:
    __getattr__ = lazy(
        __name__,
        {
            "make_card": "igcsearch.entries.card",
            "create_model": "igcsearch.entries.models",
            "draw": "igcsearch.entries.drawing",
            "load": "igcsearch.entries.models",
            "check_target": "igcsearch.entries.write",
            "write_entry": "igcsearch.entries.write",
        },
    )

__all__ = [
    "Entry",
    "check_target",
    "create_model",
    "draw",
    "find_model",
    "list_entries",
    "list_models",
    "list_references",
    "load",
    "make_card",
    "read_entry",
    "read_folder",
    "user_zoo",
    "write_entry",
    "zoos",
]
