"""Trials without Optuna: they answer at random, by given values or at the ends, and record each parameter's distribution."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any


class Recorder:
    """Answers from `values` where it has the name, else by the generator; `distributions` holds what was asked for."""

    def __init__(self, values: Mapping[str, Any] | None = None, generator: random.Random | None = None) -> None:
        self.values = dict(values or {})
        self.generator = generator or random.Random(0)
        self.distributions: dict[str, tuple[Any, ...]] = {}

    def _answer(self, name: str, distribution: tuple[Any, ...], drawn: Any) -> Any:
        assert self.distributions.get(name, distribution) == distribution, f"{name} asked for twice, differently"
        self.distributions[name] = distribution
        return self.values.setdefault(name, drawn)

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return self._answer(name, ("float", low, high), self.generator.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return self._answer(name, ("int", low, high), self.generator.randint(low, high))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, ("categorical", *choices), self.generator.choice(list(choices)))


class Extreme(Recorder):
    """Every rank at 0 or at 1 by a coin, names at random: the corners of a space."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return self._answer(name, ("float", low, high), self.generator.choice((low, high)))
