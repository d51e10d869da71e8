"""Predicted latency: the times of a network's parts added up, where the network will run and before it is built. No torch.

A `LatencyTable` is measured once, before the first training (measuring.py), and kept in the study, so that every coordinator and
every resumed run predicts the same. `predict` is what settles proposals that are too slow, what the objective `latency` minimises
and what a candidate's `latency_ms` is.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from igcsearch.spec import Architecture
from igcsearch.spec.parts import FEATURES, Part, parts
from igcsearch.wording import percent, plural

TABLE = "igcsearch:latency"  # the study's attribute
_DOUBTFUL = 0.2  # relative error of the prediction, median, beyond which the user is warned

#: Milliseconds in both memory formats that a network can run in: (contiguous, channels_last).
Times = tuple[float, float]
Coefficients = tuple[float, ...]


@dataclass(frozen=True)
class LatencySetting:
    """Where and how a network will run.

    Attributes:
        device: cpu or cuda; of the machine of the coordinator.
        batch: images in a pass.
        threads: of torch.
    """

    device: str = "cpu"
    batch: int = 1
    threads: int = 1

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.device}, batch {self.batch}, {plural(self.threads, 'thread')}"


@dataclass(frozen=True)
class LatencyTable:
    """What the parts of a space's networks take.

    Attributes:
        setting: that they were measured in.
        times: of each part measured, by `Part.key`; each by its fastest plan.
        fits: for parts that were not: what one unit of each of FEATURES takes, in either format; none is negative.
        beyond_ms: what a whole network takes beyond the sum of its parts.
        checks: (predicted, measured) milliseconds of whole networks that had no share in the table.
        place: where it was measured: device, torch.
    """

    setting: LatencySetting
    times: Mapping[str, Times]
    fits: tuple[Coefficients, Coefficients]
    beyond_ms: float = 0.0
    checks: tuple[tuple[float, float], ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)

    def part(self, part: Part) -> Times:
        """Milliseconds of a part: as measured, or by the fit."""
        found = self.times.get(part.key)
        if found is not None:
            return found
        features = part.features(self.setting.batch)
        first, last = (sum(f * c for f, c in zip(features, fit, strict=True)) for fit in self.fits)
        return first, last

    def predict(self, architecture: Architecture) -> float:
        """Milliseconds of a network: the sum over its parts in the better format, and what it takes beyond them."""
        found = [self.part(part) for part in parts(architecture)]
        return max(0.0, min(sum(first for first, _ in found), sum(last for _, last in found)) + self.beyond_ms)

    @property
    def errors(self) -> list[float]:
        """Relative errors of the prediction on the networks that were measured whole."""
        return [abs(predicted / measured - 1) for predicted, measured in self.checks]

    @property
    def words(self) -> str:
        """What the table is and how far it is to be trusted, in a sentence."""
        text = f"predicted for {self.setting.words}, from {plural(len(self.times), 'part')} measured"
        if not self.checks:
            return text
        middle, most = percent(statistics.median(self.errors)), percent(max(self.errors))
        text += f"; on {plural(len(self.checks), 'whole network')} off by {middle} (median), {most} at most"
        if statistics.median(self.errors) > _DOUBTFUL:
            text += ". That is too much to rely on: measure again on a quiet machine, or for longer (--latency-time)"
        return text

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self) | {"features": list(FEATURES)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyTable:
        """The inverse of `to_dict`."""
        fits = values["fits"]
        return cls(
            LatencySetting(**values["setting"]),
            {key: (float(first), float(last)) for key, (first, last) in values["times"].items()},
            (tuple(fits[0]), tuple(fits[1])),
            float(values["beyond_ms"]),
            tuple((float(predicted), float(measured)) for predicted, measured in values["checks"]),
            dict(values["place"]),
        )


def stored_table(attributes: Mapping[str, Any]) -> LatencyTable | None:
    """The table among a study's attributes; None where it has none, or one of another version, with which nothing new can be
    predicted."""
    found = attributes.get(TABLE)
    return None if found is None or tuple(found["features"]) != FEATURES else LatencyTable.from_dict(found)


def make_table(setting: LatencySetting, measured: Sequence[tuple[Part, Times]]) -> LatencyTable:
    """The table of parts that were measured, and the fit to them."""
    fits = tuple(_fit(setting.batch, [(part, times[form]) for part, times in measured]) for form in (0, 1))
    times = {part.key: (round(first, 6), round(last, 6)) for part, (first, last) in measured}
    return LatencyTable(setting, times, (fits[0], fits[1]))


def _fit(batch: int, measured: Sequence[tuple[Part, float]]) -> Coefficients:
    """Non-negative least squares of the relative errors: a part twice as slow may be off by twice as much."""
    import numpy as np
    from scipy.optimize import nnls

    features_PF = np.array([part.features(batch) for part, _ in measured])
    ms_P = np.array([max(ms, 1e-6) for _, ms in measured])
    scale_F = np.maximum(features_PF.max(axis=0), 1e-12)  # counts of millions beside a constant of one
    found_F, _ = nnls(features_PF / scale_F / ms_P[:, None], np.ones(len(ms_P)))
    return tuple(float(value) for value in found_F / scale_F)
