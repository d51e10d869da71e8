"""What a running search tells its caller: a stream of small frozen records, in the order in which things happen.

`run_search(..., on_event=callable)` calls back with one of these at a time, from the coordinator's own thread; the command line
renders them. Nothing here is stored: the study is the record.

Where latency is predicted, a new search first sends Measuring (several times) and every search Predicting. A new search sends
Started, Estimate, then for each candidate CandidateStarted, EpochDone ..., Finished | Stopped | Failed, with ProposalSettled,
Retried and Noted between them, and Ended as the last one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Where the study stands. `settled` were told to the sampler without training; `proposals` is everything proposed."""

    trials: int  # asked for: complete + stopped in the whole study
    complete: int = 0
    stopped: int = 0
    failed: int = 0
    settled: int = 0
    running: int = 0

    @property
    def trained(self) -> int:
        """Candidates that count towards `trials`."""
        return self.complete + self.stopped

    @property
    def proposals(self) -> int:
        """All proposals so far."""
        return self.trained + self.failed + self.settled + self.running

    @property
    def acceptance(self) -> float:
        """The share of proposals that were worth training, in [0, 1]; 1 before the first."""
        return (self.proposals - self.settled) / self.proposals if self.proposals else 1.0


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    counts: Counts


@dataclass(frozen=True)
class Measuring(Event):
    """Parts of the space's networks are being timed, before anything is trained: `done` `of` so many."""

    setting: str  # device, batch, threads, in words
    done: int
    of: int
    limit_seconds: float


@dataclass(frozen=True)
class Predicting(Event):
    """From what latency is predicted, and how far the prediction was off on whole networks, in words."""

    text: str


@dataclass(frozen=True)
class Started(Event):
    """The search is about to propose: data are loaded, the study is created or opened."""

    out: str
    resumed: bool
    requeued: int  # candidates of a dead run that go on from their checkpoints
    workers: int
    device: str
    threads: int  # of each worker
    stopping: str  # none | halving | hyperband, as resolved
    data: dict[str, object]  # name, train, validation, test (image counts), image_size, in_channels, num_classes


@dataclass(frozen=True)
class Estimate(Event):
    """The time to expect, from a timed training step of the first candidate and before any training."""

    step_seconds: float
    candidate_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class ProposalSettled(Event):
    """A proposal that is not trained: outside the budget, a duplicate, or not admissible."""

    id: int
    kind: str  # budget | duplicate | condition | space | latency
    reason: str


@dataclass(frozen=True)
class CandidateStarted(Event):
    """A candidate was handed to a worker (again, where attempt > 1)."""

    id: int
    hash: str
    family: str
    params: int
    macs: int
    attempt: int


@dataclass(frozen=True)
class EpochDone(Event):
    """A candidate finished an epoch; epochs read back from its checkpoint are not told again in one run."""

    id: int
    epoch: int
    epochs: int
    accuracy: float  # on the validation split
    seconds: float


@dataclass(frozen=True)
class Finished(Event):
    """A candidate was trained to the end; `best` if no complete candidate is more accurate."""

    id: int
    accuracy: float
    params: int
    macs: int
    latency_ms: float | None
    seconds: float
    best: bool


@dataclass(frozen=True)
class Stopped(Event):
    """A candidate was stopped early."""

    id: int
    epoch: int
    accuracy: float


@dataclass(frozen=True)
class Failed(Event):
    """A candidate failed for good."""

    id: int
    reason: str


@dataclass(frozen=True)
class Retried(Event):
    """A candidate's worker died; it goes on from its checkpoint on another one."""

    id: int
    reason: str
    attempt: int


@dataclass(frozen=True)
class Noted(Event):
    """Something that the user should know of a candidate under way, such as a damaged checkpoint."""

    id: int
    text: str


@dataclass(frozen=True)
class Ended(Event):
    """The search is over. `reason`: trials | timeout | interrupted | settled | failures; `message` says it in words."""

    reason: str
    message: str
