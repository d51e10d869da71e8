"""The way a proposal is made in every space of this folder: one layout, choice after choice, inside the budget. Floor 2.

First the shape (family, residual, schedule, growth of the widths, number of factors, the 3x3's own branch width), each option
priced by the smallest network that can still be made with it; then the width, at one block a stage; then the depths and each
stage's branch widths, with what is left. Widths come before depths because random networks are deep and narrow the other way
round (depths then fit easily, at the least width). All parameters are asked for in every trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Cost, Problem

from .choices import Trial, fill, named, ranked
from .forms import SPATIAL, StageForm, numbers_of
from .plans import Layout, Plan, Schedule, build, grown, learnable, least_grown, options_of, plan_cost, start

#: What shuffles can be where a block leaves it open; a search asks for some of them alone (`choices.limited`).
SHUFFLES = ("interleave", "random", "learned")
#: Of widths and depths: above 1, so that networks do not cluster far below the budget (`choices.position`).
EMPHASIS = 1.25
#: Group counts: searched as parameters, or learned in training wherever there is something to learn (spec/grouping.py).
GROUPS = ("searched", "learned")
#: The families that are proposed where group counts are learned, with a channel-wise 3x3.
LEARNING = ("igcv2", "igcv3")


def propose(trial: Trial, problem: Problem, layout: Layout) -> Architecture:
    """A network of the layout, within the problem's budget where `smallest` is.

    Raises:
        UsageError: the layout does not serve images of that size.
    """
    budget, schedules = problem.budget, schedules_for(layout, problem.image_size)

    def price(plan: Plan) -> Cost:
        return plan_cost(plan, problem)

    def least(plan: Plan) -> Cost:
        starts = (start(layout, plan.family, schedule, plan.residual) for schedule in schedules)
        return min(map(price, starts), key=lambda cost: fill(cost, budget))

    def choose(name: str, plans: Sequence[Plan], emphasis: float = 1.0) -> Plan:
        return ranked(trial, name, plans, price, budget, emphasis)

    activation = trial.suggest_categorical("activation", layout.activations)
    shuffle = trial.suggest_categorical("shuffle", SHUFFLES)
    groups = trial.suggest_categorical("groups", GROUPS)
    families = {name: start(layout, name, schedules[0]) for name in layout.families}
    learning = [name for name in LEARNING if name in families] if groups == "learned" else []
    able = [name for name in learning if budget.admits(*least(families[name]))]
    plan = named(trial, "family", families, least, budget, able)
    plan = named(trial, "residual", {"no": plan, "yes": plan._replace(residual=True)}, least, budget)
    plan = choose("schedule", [start(layout, plan.family, schedule, plan.residual) for schedule in schedules])
    # what a family or schedule does not use has one option, the plan as it is
    for s in range(layout.most_stages):
        growths = [_put(plan.growths, s, growth) for growth in layout.growths] if s < plan.stages else []
        every = [
            plan._replace(widths=widths) for growth in growths if (widths := least_grown(layout, plan.family, growth))
        ]
        plan = choose(f"growth{s + 1}", every or [plan])
    own, every_number = numbers_of(plan.family)
    for name in ("factors", "expansion"):
        numbers = every_number if name == own else (plan.number,)
        plan = choose(name, [plan._replace(number=number) for number in numbers])
    widths_of_3x3 = SPATIAL if plan.family == "igcv2" and groups == "searched" else SPATIAL[:1]
    plan = choose("spatial", [plan._replace(spatial=k) for k in widths_of_3x3])
    if len(layout.heads) > 1:
        plan = choose("head", [plan._replace(head=head) for head in layout.heads])
    every = [
        plan._replace(widths=widths) for w in layout.widths if (widths := grown(layout, plan.family, w, plan.growths))
    ]
    plan = choose("width", every, EMPHASIS)
    for s in range(layout.most_stages):
        depths = layout.depths if s < plan.stages else ()
        every = [plan._replace(depths=_put(plan.depths, s, depth)) for depth in depths]
        plan = choose(f"depth{s + 1}", every or [plan], EMPHASIS)
    chosen: tuple[StageForm, ...] = ()
    for s in range(layout.most_stages):
        forms = options_of(plan, s) if s < plan.stages else ()
        options = [(*chosen, form) for form in forms] if s < plan.stages else [chosen]
        if groups == "learned" and plan.family in LEARNING and forms:  # training spends what the cheapest leaves
            strict_first = [(*chosen, form) for form in learnable(plan, s, forms)]
            fits = (option for option in strict_first if budget.admits(*plan_cost(plan, problem, option)))
            options = [next(fits, options[0])]
        chosen = ranked(trial, f"branches{s + 1}", options, lambda forms: plan_cost(plan, problem, forms), budget)
    groups = groups if plan.family in LEARNING else "searched"
    return build(plan, chosen, problem, activation=activation, shuffle=shuffle, groups=groups)


def smallest(problem: Problem, layout: Layout) -> Architecture:
    """The network of the fewest parameters within the budget or, where none meets it, the one of the least excess.

    Raises:
        UsageError: the layout does not serve images of that size.
    """
    schedules = schedules_for(layout, problem.image_size)
    costs = {p: plan_cost(p, problem) for p in (start(layout, name, s) for name in layout.families for s in schedules)}
    inside = [plan for plan, cost in costs.items() if problem.budget.admits(*cost)]
    if inside:
        plan = min(inside, key=lambda plan: costs[plan])
    else:
        plan = min(costs, key=lambda plan: (fill(costs[plan], problem.budget), costs[plan]))
    return build(plan, tuple(options_of(plan, s)[0] for s in range(plan.stages)), problem)


@lru_cache(maxsize=1024)
def schedules_for(layout: Layout, size: int) -> tuple[Schedule, ...]:
    """The schedules that images of that size allow: all that leave a map of at least `last_size`.

    Raises:
        UsageError: the layout does not serve images of that size.
    """
    low, high = layout.sizes
    if not low <= size <= high:
        raise UsageError(
            f"space {layout.name!r} serves images of {low} to {high} pixels a side, not {size}; {layout.other}"
        )
    gentlest = max(schedule.out_size(size) for schedule in layout.schedules)
    return tuple(s for s in layout.schedules if s.out_size(size) >= min(layout.last_size, gentlest))


def _put(values: tuple[int, ...], position: int, value: int) -> tuple[int, ...]:
    return (*values[:position], value, *values[position + 1 :])
