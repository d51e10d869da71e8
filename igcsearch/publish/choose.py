"""Which candidates of a study are retrained: its finalists (publish), or a spread over the whole ranking (agreement)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..search import Candidate, Study


def finalists(study: Study, count: int | None = None) -> list[Candidate]:
    """The `count` most accurate candidates of the front; for a single objective, of all complete ones trained alike.

    Ties go to fewer parameters, then to the earlier candidate. Fewer exist, or `count` is None: all are returned.
    Raises UsageError when there is none.
    """
    candidates = study.front() if len(study.config.objectives) > 1 else study.comparable()
    ranked = best_first(candidates)
    if not ranked:
        raise UsageError("this study has no complete candidate to publish; resume the search first")
    return ranked[:count]


def spread(study: Study, count: int) -> list[Candidate]:
    """`count` candidates spread evenly over the ranking by search accuracy, stopped ones too; the first and last included."""
    trained = [candidate for candidate in study.candidates() if candidate.state in ("complete", "stopped")]
    ranked = best_first(trained)
    if len(ranked) < 2:
        raise UsageError(f"this study has {len(ranked)} trained candidates; agreement needs at least 2, better 15")
    if len(ranked) <= count:
        return ranked
    return [ranked[round(index * (len(ranked) - 1) / (count - 1))] for index in range(count)]


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates with an accuracy, by accuracy, then parameters, then id; each architecture once."""
    ranked = sorted(
        (candidate for candidate in candidates if candidate.accuracy is not None),
        key=lambda candidate: (-(candidate.accuracy or 0.0), candidate.params, candidate.id),
    )
    return list({candidate.hash: candidate for candidate in reversed(ranked)}.values())[::-1]
