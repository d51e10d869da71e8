"""What `igcsearch status --watch` knows at one moment: counts, pace, candidates in training, devices in use; in words for a pipe.

Everything comes from the storage: the trials with their times and what was recorded of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..wording import clock, percent, short

if TYPE_CHECKING:
    from ..search import Candidate, Study

_WINDOW = 30  # trained candidates that the pace is taken from, the latest ones
_PAUSE = timedelta(seconds=60)  # without any candidate in training: between two runs, not part of the pace


@dataclass(frozen=True)
class Look:
    """What a study says at one moment.

    Attributes:
        status: as `Study.status` gives it.
        pace: candidates trained per second, of the latest ones; None before there are any.
        running: candidates in training, with the seconds since they began (None if unknown).
        devices: where they train: (device, who trains there) -> how many.
    """

    status: dict[str, Any]
    pace: float | None = None
    running: list[tuple[Candidate, float | None]] = field(default_factory=list)
    devices: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def trained(self) -> int:
        """Candidates that count."""
        return int(self.status["complete"] + self.status["stopped"])

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at this pace; None if unknown or if nothing runs."""
        if not self.pace or not self.status["running"]:
            return None
        return max(0, self.status["trials"] - self.trained) / self.pace

    @property
    def ended(self) -> bool:
        """True if no search works on the study; where that cannot be known, once all are trained."""
        active = self.status["active"]
        over = self.trained >= self.status["trials"] and not self.status["running"]
        return over if active is None else not active

    @property
    def changes(self) -> tuple[Any, ...]:
        """What makes a new line in a pipe."""
        best = self.status["best"]
        counts = tuple(self.status[name] for name in ("complete", "stopped", "settled", "failed", "running", "waiting"))
        return (*counts, self.status["active"], None if best is None else best["id"])


def look(study: Study) -> Look:
    """Read a study once.

    Raises:
        UsageError: its database cannot be read.
    """
    from ..search.candidate import OWNER, read_candidate

    status = study.status()
    with study.place.readable():
        trials = study.optuna.get_trials(deepcopy=False)
    spans, known = list[tuple[datetime, datetime]](), dict[str, str]()  # device, by who trains
    running: list[tuple[Candidate, float | None]] = []
    owners: list[str] = []
    now = datetime.now()
    for trial in trials:
        candidate, owner = read_candidate(trial), str(trial.user_attrs.get(OWNER, ""))
        if candidate is None:
            continue
        begun, done = trial.datetime_start, trial.datetime_complete
        if candidate.state == "running":
            running.append((candidate, None if begun is None else (now - begun).total_seconds()))
            owners.append(owner)
        if candidate.state in ("complete", "stopped") and begun is not None and done is not None:
            spans.append((begun, done))
        if candidate.device:
            known[owner] = candidate.device
    if status["active"] is False:
        running, owners = [], []
    usual = str(study.data.get("device") or "unknown device")
    places = Counter((known.get(owner, usual), _host(owner)) for owner in owners)
    return Look(status, pace(spans), running, dict(places))


def pace(spans: Iterable[tuple[datetime, datetime]]) -> float | None:
    """Candidates per second, from the beginning and end of trained ones: the latest, pauses between runs left out."""
    latest = sorted(spans, key=lambda span: span[1])[-_WINDOW:]
    busy, until = timedelta(), None
    for begun, done in sorted(latest):
        if until is None or begun > until + _PAUSE:
            busy += done - begun
        elif done > until:
            busy += done - until
        until = done if until is None else max(until, done)
    return len(latest) / busy.total_seconds() if busy > timedelta() else None


def ending(found: Look) -> str:
    """The last line."""
    status = found.status
    text = f"no search is running: {found.trained} of {status['trials']} trained"
    if found.trained < status["trials"]:
        under_way = f", {status['waiting']} under way go on" if status["waiting"] else ""
        text += f"{under_way}; resume it to train the rest"
    return text


def line(found: Look) -> str:
    """A look in one line."""
    status, left = found.status, found.left_s
    states = ", ".join(f"{status[name]} {name}" for name in ("complete", "stopped", "failed", "settled", "running"))
    parts = [f"{found.trained}/{status['trials']} trained", states, f"best {best(found)}"]
    if found.pace is not None:
        parts.append(rate(found.pace))
    if left is not None:
        parts.append(f"about {clock(left)} left")
    if found.devices:
        parts.append("on " + devices(found))
    return "; ".join(parts)


def best(found: Look) -> str:
    """The best so far."""
    known = found.status["best"]
    if known is None:
        return "none yet"
    cost = f"{short(known['params'])} params, {short(known['macs'])} MACs"
    return f"{percent(known['accuracy'])} (candidate {known['id']}, {cost})"


def rate(pace: float) -> str:
    """Candidates an hour, or a second."""
    return f"{3600 * pace:,.0f} an hour" if pace < 1 else f"{pace:,.1f} a second"


def devices(found: Look) -> str:
    """Where the candidates in training are."""
    return ", ".join(
        f"{number} x {device}{f' by {host}' if host else ''}"
        for (device, host), number in sorted(found.devices.items())
    )


def _host(owner: str) -> str:
    """A coordinator's machine and process, of the name that it gives its trials on a server (HOST-PID-RANDOM)."""
    host, _, rest = owner.rpartition("-")
    name, _, pid = host.rpartition("-")
    return f"{name} (process {pid})" if name and rest else ""
