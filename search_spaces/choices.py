"""Choices that respect a budget: what is left bounds each later choice, and every parameter keeps one fixed distribution.

A choice is a rank in [0, 1], `trial.suggest_float(name, 0, 1)`, mapped onto the options that the budget still admits, the
cheapest at 0 and the costliest at 1. The sampler sees the same parameter in every trial, whatever the options were, so TPE,
NSGA-II and evolution can model it; ranges that change with earlier choices would make them fall back to random draws.
The space functions of this folder are made of these; a user's own space can be too:

    from igcsearch.blocks import network, stage, xception
    from igcsearch.search_spaces.choices import ranked

    def build(problem, width, depth):
        return network(problem, width, [stage(xception, width, 2 * width, depth, stride=2)])

    def space(trial, problem):
        # `cost` is that of the cheapest network that still can be made once the option is taken
        depth = ranked(trial, "depth", (1, 2, 3, 4), lambda depth: build(problem, 8, depth).cost, problem.budget)
        width = ranked(trial, "width", range(8, 97, 8), lambda width: build(problem, width, depth).cost, problem.budget)
        return build(problem, width, depth)

    def smallest(problem):
        return build(problem, 8, 1)

As long as each `cost` is the cost of a network that can really be reached, no proposal exceeds a budget that `smallest` meets.
Suggest every parameter in every trial, also those that the family chosen does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from igcsearch.errors import UsageError
from igcsearch.spec import Budget, Cost

Option = TypeVar("Option")


class Trial(Protocol):
    """What a space needs of a trial; `optuna.Trial` and `optuna.trial.FixedTrial` are such."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """A number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high]."""

    def suggest_categorical(self, name: str, choices: tuple[str, ...]) -> str:
        """One of the choices."""


class Limited:
    """A trial whose parameters "shuffle" and "groups" offer only some choices; for the rest it is the trial that it is made of.

    A parameter of such a name with other meanings, known by its having no choice "learned", is left as it is.

    Args:
        trial: of the search.
        shuffles: kinds, of interleave, random and learned.
        groups: modes, of searched and learned. Where it is one, the trial is not asked: studies had trials before it could be.
    """

    def __init__(self, trial: Trial, shuffles: tuple[str, ...], groups: tuple[str, ...]) -> None:
        self._trial, self._allowed = trial, {"shuffle": shuffles, "groups": groups}
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def suggest_categorical(self, name: str, choices: tuple[str, ...]) -> str:
        """One of the choices that are allowed."""
        if name in self._allowed and "learned" in choices:
            self.asked.add(name)
            allowed = self._allowed[name]
            choices = tuple(choice for choice in choices if choice in allowed)
            if not choices:
                raise UsageError(f"the space has no {name} {' or '.join(allowed)}; give another --{name}")
            if name == "groups" and len(choices) == 1:
                return choices[0]
        return self._trial.suggest_categorical(name, choices)


def fill(cost: Cost, budget: Budget) -> float:
    """The share of the budget that a cost takes, of the limit that it is nearest to; 0 where no limit is set."""
    shares = [cost.params / budget.params] if budget.params else []
    return max([*shares, cost.macs / budget.macs] if budget.macs else shares, default=0.0)


def position(rank: float, count: int, emphasis: float = 1.0) -> int:
    """The index that a rank in [0, 1] takes among `count` options: monotone, 0 at rank 0 and count - 1 at rank 1.

    Each option has a part of [0, 1]; the parts are equal at emphasis 1. Above 1 the later options have the longer parts:
    the last n of them together have 1 - (1 - n / count) ** emphasis.
    """
    rank = min(max(rank, 0.0), 1.0)
    return min(int(count * rank ** (1.0 / emphasis)), count - 1)


def admissible(options: Iterable[Option], cost: Callable[[Option], Cost], budget: Budget) -> list[Option]:
    """The options whose cost the budget admits, the cheapest first; the one cheapest option where it admits none.

    "Cheapest" is by `fill`, then by parameters, by MACs and by the order given.
    """
    priced = []
    for index, option in enumerate(options):
        price = cost(option)
        priced.append((fill(price, budget), price, index, option))
    priced.sort(key=lambda entry: entry[:3])
    return [option for _, price, _, option in priced if budget.admits(*price)] or [priced[0][3]]


def ranked(
    trial: Trial,
    name: str,
    options: Iterable[Option],
    cost: Callable[[Option], Cost],
    budget: Budget,
    emphasis: float = 1.0,
) -> Option:
    """The option that the trial's rank takes among those that the budget still admits.

    Args:
        trial: gives the parameter `name`, a float in [0, 1], always with that one distribution.
        options: at least one.
        cost: of the cheapest network that can still be made once the option is taken, for all choices made so far.
        budget: of the problem.
        emphasis: above 1 prefers the costlier options, see `position`.
    """
    rank = trial.suggest_float(name, 0.0, 1.0)
    every = list(options)
    remaining = admissible(every, cost, budget) if len(every) > 1 else every
    return remaining[position(rank, len(remaining), emphasis)]


def named(
    trial: Trial,
    name: str,
    options: Mapping[str, Option],
    cost: Callable[[Option], Cost],
    budget: Budget,
    able: Collection[str] | None = None,
) -> Option:
    """The option that the trial names, all names always being among the choices (a fixed categorical distribution).

    A name that the budget no longer admits, or that is not among those that are `able`, stands for one that is: the names are
    sorted by cost, and the position among all of them is scaled to a position among those that are left.
    """
    given = trial.suggest_categorical(name, tuple(options))
    left = {each: option for each, option in options.items() if not able or each in able}
    if given in left and budget.admits(*cost(left[given])):
        return left[given]
    remaining = admissible(left.values(), cost, budget)
    every = admissible(options.values(), cost, Budget())
    return remaining[every.index(options[given]) * len(remaining) // len(every)]
