"""The rungs of a ladder: limits on parameters, MACs or both, each with a name; what is refused of them; where their studies are.
A limit on latency is the same for all of them.

A rung is a continuation of its parent study's search within a tighter budget, as a study of its own: in STUDY/zoo/NAME, or for a
study on a server on the same server, as PARENT-NAME. ladder.py builds them, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..spec import Budget

if TYPE_CHECKING:
    from ..search import Study

FOLDER = "zoo"  # of the parent's, for the rungs' studies
_WORDS = {"params": "parameters", "macs": "MACs", "latency_ms": "ms"}
RUNG = "rung.json"  # in a rung's folder, written last: what it was built with, and its entries


@dataclass(frozen=True)
class Rung:
    """One rung. At least one of the limits on parameters and MACs is set."""

    params: int | None = None
    macs: int | None = None
    latency_ms: float | None = None

    @property
    def name(self) -> str:
        """For folders, entries and messages: params-20k, macs-1M, params-20k-macs-1M, params-20k-2.5ms."""
        sizes = {"params": self.params, "macs": self.macs}
        names = [f"{name}-{_size(value)}" for name, value in sizes.items() if value is not None]
        return "-".join(names if self.latency_ms is None else [*names, f"{self.latency_ms:g}ms"])

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set."""
        return Budget(self.params, self.macs, self.latency_ms).to_dict()

    @property
    def words(self) -> str:
        """The limits for people."""
        return " and ".join(f"{value:,} {_WORDS[name]}" for name, value in self.limits.items())

    def within(self, budget: Budget) -> Budget:
        """The parent's budget, tightened."""
        limits: dict[str, Any] = self.limits
        return replace(budget, **limits)


def make_ladder(params: Sequence[int] = (), macs: Sequence[int] = (), latency_ms: float | None = None) -> list[Rung]:
    """The rungs of a list of limits on parameters, of one on MACs, or of both: then the first goes with the first, and so on.

    A limit on latency is that of every rung.

    Raises:
        UsageError: no limits, lists of unequal length, limits that do not rise.
    """
    if not params and not macs:
        raise UsageError(
            "a ladder needs at least one rung; give --ladder 20k,50k,100k (parameters) or --ladder-macs 1M,5M"
        )
    for option, values in (("--ladder", params), ("--ladder-macs", macs)):
        for before, after in pairwise(values):
            if after == before:
                raise UsageError(f"{option}: rung {_size(after)} is there twice; leave one of them out")
            if after < before:
                raise UsageError(
                    f"{option}: rung {_size(after)} comes after the larger {_size(before)}; give rungs in rising order"
                )
    if params and macs:
        if len(params) != len(macs):
            raise UsageError(
                f"--ladder has {len(params)} rungs, --ladder-macs has {len(macs)}: with both, each rung takes one limit of "
                "each list; give as many of each, or one list alone"
            )
        return [Rung(p, m, latency_ms) for p, m in zip(params, macs, strict=True)]
    return [Rung(params=value, latency_ms=latency_ms) for value in params] or [
        Rung(macs=value, latency_ms=latency_ms) for value in macs
    ]


def check_against(rungs: Sequence[Rung], parent: Study) -> None:
    """Refuse rungs that are no part of the parent's question, and a parent that has nothing to begin with.

    Raises:
        UsageError: a rung above the parent's own budget; a parent without a complete candidate.
    """
    budget = parent.config.budget
    for rung in rungs:
        for name, value in rung.limits.items():
            own = getattr(budget, name)
            if own is not None and value > own:
                raise UsageError(
                    f"rung {rung.name} is above the study's own budget of {own:,} {_WORDS[name]}: its search never looked there; "
                    f"leave it out, or search with a budget of {value:,}"
                )
    if not parent.comparable():
        raise UsageError(f"the study in {parent.path} has no complete candidate to begin with; resume its search first")


@dataclass(frozen=True)
class RungPlace:
    """Where a rung's study is: the arguments of `run_search` and `open_study`."""

    folder: Path
    storage: str | None = None
    study: str | None = None

    def exists(self) -> bool:
        """True if there is a study already."""
        from ..search.places import place_at

        return place_at(self.folder, self.storage, self.study).exists()

    def open(self) -> Study:
        """The study."""
        from ..search import open_study

        return open_study(self.folder, storage=self.storage, study=self.study)


def rung_place(parent: Study, name: str, storage: str | None) -> RungPlace:
    """The place of the rung of that name.

    Args:
        storage: URL of the parent's server as it was given, which may hold a password; None: what study.json says.
    """
    described: dict[str, Any] = parent.place.description()
    folder = parent.path / FOLDER / name
    if not parent.place.shared:
        return RungPlace(folder)
    return RungPlace(folder, storage or str(described["storage"]), f"{described['study']}-{name}")


def other_places(parent: Study, rungs: Sequence[Rung], rung: Rung, storage: str | None) -> list[RungPlace]:
    """The places of all other rungs of the parent that have a study: those of this ladder and of earlier ones."""
    base = parent.path / FOLDER
    names = [other.name for other in rungs]
    names += sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    places = (rung_place(parent, name, storage) for name in dict.fromkeys(names) if name != rung.name)
    return [place for place in places if place.exists()]


def _size(value: int) -> str:
    """A limit as people write it, exactly: 20k, 1M, 12345."""
    for factor, unit in ((1_000_000, "M"), (1_000, "k")):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)
