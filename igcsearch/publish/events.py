"""What a running publication tells its caller: small frozen records, in order. Each has `message`, one line to print.

`publish(..., on_event=callable)` and `agreement(...)` send Planned, then for each retraining EpochDone ... and SeedDone or
SeedFailed, then FinalistsChosen and EntryWritten (publish) or Agreed (agreement); Note anywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event(ABC):
    """Base of all events."""

    @property
    @abstractmethod
    def message(self) -> str:
        """The event in one line."""


@dataclass(frozen=True)
class Note(Event):
    """Something the user should know."""

    text: str

    @property
    def message(self) -> str:
        """The event in one line."""
        return self.text


@dataclass(frozen=True)
class Planned(Event):
    """Retraining is about to begin; `reused` of the `retrainings` were finished by an earlier run."""

    candidates: int
    seeds: int
    epochs: int
    train_images: int
    retrainings: int
    reused: int
    workers: int
    threads: int  # of each worker
    device: str

    @property
    def message(self) -> str:
        """The event in one line."""
        reused = f", {self.reused} of them finished before" if self.reused else ""
        return (
            f"retraining {_many(self.candidates, 'candidate')} with {_many(self.seeds, 'seed')} each, "
            f"{_many(self.epochs, 'epoch')} of {self.train_images} images: {_many(self.retrainings, 'retraining')}{reused}; "
            f"{_many(self.workers, 'worker')} on {self.device}, {_many(self.threads, 'thread')} each"
        )


@dataclass(frozen=True)
class EpochDone(Event):
    """A retraining finished an epoch."""

    id: int
    hash: str
    seed: int
    epoch: int
    epochs: int
    accuracy: float  # on the validation split
    seconds: float

    @property
    def message(self) -> str:
        """The event in one line."""
        return f"candidate {self.id} seed {self.seed}: epoch {self.epoch}/{self.epochs}, {100 * self.accuracy:.2f} %"


@dataclass(frozen=True)
class SeedDone(Event):
    """A retraining is finished."""

    id: int
    hash: str
    seed: int
    accuracy: float  # on the validation split
    seconds: float
    reused: bool

    @property
    def message(self) -> str:
        """The event in one line."""
        how = "finished before" if self.reused else f"{self.seconds:.0f} s"
        return f"candidate {self.id} seed {self.seed}: validation accuracy {100 * self.accuracy:.2f} % ({how})"


@dataclass(frozen=True)
class SeedFailed(Event):
    """A retraining failed for good."""

    id: int
    hash: str
    seed: int
    reason: str

    @property
    def message(self) -> str:
        """The event in one line."""
        return f"candidate {self.id} seed {self.seed} failed: {self.reason}"


@dataclass(frozen=True)
class FinalistsChosen(Event):
    """All finalists, best first, as in finalists.json; not `ranked`: the chosen were named, the others of them failed."""

    rows: tuple[dict[str, Any], ...]
    ranked: bool = True

    @property
    def message(self) -> str:
        """The event in one line."""
        chosen = [str(row["id"]) for row in self.rows if row["chosen"]]
        if not self.ranked:
            failed = [str(row["id"]) for row in self.rows if not row["chosen"]]
            also = f"; failed in training and not published: candidate {', '.join(failed)}" if failed else ""
            return f"to be published, as named: candidate {', '.join(chosen)}{also}"
        return f"chosen by mean validation accuracy: candidate {', '.join(chosen)} of {len(self.rows)} finalists"


@dataclass(frozen=True)
class EntryWritten(Event):
    """A network is published."""

    name: str
    path: Path
    accuracy: float  # on the test split, mean over seeds
    replaced: bool

    @property
    def message(self) -> str:
        """The event in one line."""
        verb = "replaced" if self.replaced else "published"
        return f"{verb} {self.name}: test accuracy {100 * self.accuracy:.2f} %, in {self.path}"


@dataclass(frozen=True)
class Agreed(Event):
    """Kendall's tau between search and retrained accuracy; None where all accuracies are equal."""

    tau: float | None
    p_value: float | None
    candidates: int

    @property
    def message(self) -> str:
        """The event in one line."""
        if self.tau is None:
            return f"Kendall's tau over {self.candidates} candidates is not defined: all accuracies are equal"
        return f"Kendall's tau {self.tau:.3f} (p = {self.p_value:.2g}) over {self.candidates} candidates"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class RungStarted(Event):
    """A rung of a ladder is looked at."""

    rung: str
    number: int
    of: int
    limits: str  # in words

    @property
    def message(self) -> str:
        """The event in one line."""
        return f"rung {self.rung} ({self.number} of {self.of}): at most {self.limits}"


@dataclass(frozen=True)
class RungSearched(Event):
    """A rung has its candidates."""

    rung: str
    complete: int
    inherited: int  # of these, trained in other studies

    @property
    def message(self) -> str:
        """The event in one line."""
        own = self.complete - self.inherited
        return f"rung {self.rung}: {_many(self.complete, 'complete candidate')}, {self.inherited} inherited, {own} of its own"


@dataclass(frozen=True)
class RungDone(Event):
    """A rung's winners are in the zoo; `kept` where that was so before."""

    rung: str
    entries: tuple[str, ...]
    kept: bool
    also: tuple[str, ...] = ()  # of these, those that won in other rungs too

    @property
    def message(self) -> str:
        """The event in one line."""
        shared = f" ({', '.join(self.also)} also won another rung)" if self.also else ""
        return f"rung {self.rung}: {'complete before' if self.kept else 'done'}, {', '.join(self.entries)}{shared}"


@dataclass(frozen=True)
class RungFailed(Event):
    """A rung could not be built; the others go on."""

    rung: str
    reason: str

    @property
    def message(self) -> str:
        """The event in one line."""
        return f"rung {self.rung} failed: {self.reason}"
