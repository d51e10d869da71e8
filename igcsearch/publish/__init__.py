"""Floor 7, publish: from a study's best candidates to entries, with every figure's seeds, split, recipe and origin.

`publish` retrains finalists and writes entries, `agreement` compares search accuracy with retrained accuracy, `build_zoo` goes up
a ladder of budgets (`make_ladder`), `table` and `write_table` list entries in Markdown. Names are imported at first use: reading
tables needs no torch.
"""

from typing import TYPE_CHECKING

from igcsearch.lazy import lazy

if TYPE_CHECKING:
    from ..search.retrained import read_agreement, read_finalists
    from .facts import entry_metrics, measured_cost
    from .finalists import publish
    from .kendall import agreement
    from .ladder import build_zoo
    from .rungs import make_ladder
    from .tables import table, write_table
    from .workers import Pool
else:
    __getattr__ = lazy(
        __name__,
        {
            "Pool": ".workers",
            "agreement": ".kendall",
            "build_zoo": ".ladder",
            "make_ladder": ".rungs",
            "entry_metrics": ".facts",
            "measured_cost": ".facts",
            "publish": ".finalists",
            "read_agreement": "..search.retrained",
            "read_finalists": "..search.retrained",
            "table": ".tables",
            "write_table": ".tables",
        },
    )

__all__ = [
    "Pool",
    "agreement",
    "build_zoo",
    "entry_metrics",
    "make_ladder",
    "measured_cost",
    "publish",
    "read_agreement",
    "read_finalists",
    "table",
    "write_table",
]
