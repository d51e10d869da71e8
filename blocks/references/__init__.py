"""Named reference networks: rows of published tables, by name, with what was published of them. Floor 1.

Figures come from the project's fact sheet on IGCV2 (its section stands in `source`) or from torchvision's weights metadata; where
neither has one it is None, and the note says so. `igcsearch.create_model(name)` builds them.
"""

from igcsearch.errors import UsageError, near

from . import igcv1, igcv2, igcv3, mobilenets, resnets, shufflenets
from .reference import Reference

REFERENCES: dict[str, Reference] = {
    row.name: row for module in (igcv1, igcv2, igcv3, mobilenets, shufflenets, resnets) for row in module.ROWS
}


def get_reference(name: str) -> Reference:
    """The reference network of that name.

    Raises:
        UsageError: there is none, with near matches.
    """
    if name not in REFERENCES:
        raise UsageError(
            f"unknown reference network {name!r}{near(name, REFERENCES)}; `igcsearch list --references` shows them all"
        )
    return REFERENCES[name]


__all__ = ["REFERENCES", "Reference", "get_reference"]
