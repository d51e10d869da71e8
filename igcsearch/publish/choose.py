"""Which candidates of a study are retrained: its finalists or those that were named (publish), or a spread over the whole ranking
(agreement)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from ..search import Candidate, Study

_TRAINED = ("complete", "stopped")
_RUNS = 12  # of ids that an error lists


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


def named(study: Study, ids: Sequence[int]) -> list[Candidate]:
    """The candidates with these ids (see `checked_ids`), in their order; those stopped early have a network like all others.

    Raises UsageError for a candidate that is not there or was not trained, and for two of one network.
    """
    known = {candidate.id: candidate for candidate in study.candidates()}
    able = sorted(id for id, candidate in known.items() if candidate.state in _TRAINED)
    there = f"trained are {_runs(able)}" if able else "none is trained yet; resume the search first"
    by_hash: dict[str, int] = {}
    for id in ids:
        if id not in known:
            raise UsageError(f"this study has no candidate {id}; {there}")
        candidate = known[id]
        if candidate.state not in _TRAINED:
            raise UsageError(f"candidate {id} {_untrained(candidate)}: it cannot be published; {there}")
        first = by_hash.setdefault(candidate.hash, id)
        if first != id:
            raise UsageError(
                f"candidates {first} and {id} are the same network, {candidate.hash}; leave one of them out"
            )
    return [known[id] for id in ids]


def checked_ids(ids: Iterable[int]) -> list[int]:
    """The ids as a list. Raises UsageError unless they are whole numbers from 0, at least one, and each once."""
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise UsageError(f"candidates {ids!r}: give the ids of candidates as a list, such as [62, 55]")
    found: list[int] = []
    for id in ids:
        try:
            number = -1 if isinstance(id, bool) else operator.index(id)  # numpy's too, from a DataFrame
        except TypeError:
            number = -1
        if number < 0:
            raise UsageError(
                f"candidates: {id!r} is no id of a candidate; give whole numbers of at least 0, such as 62, 55"
            )
        if number in found:
            raise UsageError(f"candidates: {number} is there twice; leave one of them out")
        found.append(number)
    if not found:
        raise UsageError(
            "candidates: the list is empty; give the id of at least one, or no list to have the best published"
        )
    return found


def _untrained(candidate: Candidate) -> str:
    if candidate.state == "running":
        return "is in training or waits to go on"
    happened = "was settled and never trained" if candidate.state == "settled" else "failed"
    return f"{happened} ({candidate.reason[:200]})" if candidate.reason else happened


def _runs(ids: Sequence[int]) -> str:
    """Rising numbers in few characters: "0 to 3, 5, 9 to 11"; of many runs the first ones, and how many numbers more."""
    runs: list[list[int]] = []
    for id in ids:
        if runs and id == runs[-1][-1] + 1:
            runs[-1].append(id)
        else:
            runs.append([id])
    shown = ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:_RUNS])
    more = sum(map(len, runs[_RUNS:]))
    return f"{shown} and {more} more" if more else shown


def spread(study: Study, count: int) -> list[Candidate]:
    """`count` candidates spread evenly over the ranking by search accuracy, stopped ones too; the first and last included."""
    trained = [candidate for candidate in study.candidates() if candidate.state in _TRAINED]
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
