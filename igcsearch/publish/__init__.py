"""Floor 7, publish: from a study's best candidates to entries, with every figure's seeds, split, recipe and origin.

`publish` retrains finalists and writes entries, `agreement` compares search accuracy with retrained accuracy, `table` and
`write_table` list entries in Markdown. Names are imported at first use: reading tables needs no torch.
"""

from typing import TYPE_CHECKING

from igcsearch.lazy import lazy

if TYPE_CHECKING:
    from ..search.retrained import read_agreement, read_finalists
    from .facts import entry_metrics, measured_cost
    from .finalists import publish
    from .kendall import agreement
    from .tables import table, write_table
else:
    __getattr__ = lazy(
        __name__,
        {
            "agreement": ".kendall",
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
    "agreement",
    "entry_metrics",
    "measured_cost",
    "publish",
    "read_agreement",
    "read_finalists",
    "table",
    "write_table",
]
