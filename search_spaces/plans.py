"""A plan: the choices of a proposal as plain data, priced in closed form and turned into a network. Between forms and staged.

`plan_cost` prices tens of plans for each proposal without building anything but blocks, which are shared; the tests hold it
against the cost of the architecture that `build` makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from igcsearch.blocks import network, stem
from igcsearch.spec import Architecture, Cost, Problem, Stage
from igcsearch.spec.grouping import opened_groups
from igcsearch.spec.learning import opened

from .forms import SPATIAL, Form, StageForm, block, cheapest_cost, numbers_of, stage_cost, stage_forms


class Schedule(NamedTuple):
    """Where the map shrinks: the stem's stride and each stage's."""

    stem: int
    stages: tuple[int, ...]

    def out_size(self, size: int) -> int:
        """Side of the last map for images of side `size`."""
        for stride in (self.stem, *self.stages):
            size = -(-size // stride)
        return size


@dataclass(frozen=True, eq=False)
class Layout:
    """What sets one space apart from another.

    Args:
        name: of the space, for messages.
        sizes: smallest and largest side of the images that it serves.
        other: what to use for images of another size.
        schedules: of which a problem can use those that leave a map of at least `last_size`.
        widths: of the stem, ascending; each stage's is that of the one before times one of `growths`, in halves (3 is
            1.5 times), and must be even, without prime factors above 5, and have forms in the family (`forms.py`); of those
            that a layout has by default, all such widths have.
        widest: of any stage.
        depths: blocks of a stage, ascending.
        heads: width of a 1x1 convolution before the pooling over the last stage's, in halves, ascending; 0 is none.
        families: to choose from; a search may ask for others (`Space.with_families`).
    """

    name: str
    sizes: tuple[int, int]
    other: str
    schedules: tuple[Schedule, ...]
    widths: tuple[int, ...]
    widest: int
    last_size: int = 2
    depths: tuple[int, ...] = (1, 2, 3, 4)
    growths: tuple[int, ...] = (2, 3, 4)
    heads: tuple[int, ...] = (0,)
    families: tuple[str, ...] = ("igcv1", "igcv2", "igcv3", "xception", "dense")
    activations: tuple[str, ...] = ("relu", "hardswish")

    @property
    def most_stages(self) -> int:
        """Stages of the longest schedule."""
        return max(len(schedule.stages) for schedule in self.schedules)


class Plan(NamedTuple):
    """The choices made so far; those still open stand at their cheapest. `widths` are the stem's and each stage's."""

    family: str
    schedule: Schedule
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    number: int
    spatial: int = SPATIAL[0]
    head: int = 0
    residual: bool = False

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.depths)

    @property
    def growths(self) -> tuple[int, ...]:
        """Each stage's width over that of the one before, in halves."""
        return tuple(2 * after // before for before, after in zip(self.widths, self.widths[1:], strict=False))


def start(layout: Layout, family: str, schedule: Schedule, residual: bool = False) -> Plan:
    """The cheapest plan of a family and schedule: one block a stage, everywhere the least width."""
    stages = len(schedule.stages)
    number = numbers_of(family)[1][0]
    return Plan(family, schedule, (1,) * stages, least_grown(layout, family, (2,) * stages), number, residual=residual)


@lru_cache(maxsize=65536)
def grown(layout: Layout, family: str, width: int, growths: tuple[int, ...]) -> tuple[int, ...]:
    """Widths of a stem of that width and the stages behind it; empty where one is not allowed (see `Layout`)."""
    widths = [width]
    for growth in growths:
        before, doubled = widths[-1], widths[-1] * growth
        if doubled % 4 or doubled > 2 * layout.widest or not _is_smooth(doubled):
            return ()
        if not stage_forms(family, numbers_of(family)[1][0], SPATIAL[0], before, doubled // 2, True):
            return ()
        widths.append(doubled // 2)
    return tuple(widths)


@lru_cache(maxsize=65536)
def least_grown(layout: Layout, family: str, growths: tuple[int, ...]) -> tuple[int, ...]:
    """`grown` from the least width of the layout that allows it; empty where none does."""
    return next((widths for width in layout.widths if (widths := grown(layout, family, width, growths))), ())


def options_of(plan: Plan, s: int) -> tuple[StageForm, ...]:
    """The forms of stage `s` of a plan, the cheapest first."""
    return stage_forms(plan.family, plan.number, plan.spatial, plan.widths[s], plan.widths[s + 1], plan.depths[s] > 1)


def learnable(plan: Plan, s: int, forms: tuple[StageForm, ...]) -> tuple[StageForm, ...]:
    """A stage's forms, those first whose blocks behind the first are strict, so that they can learn their group counts."""
    if plan.family != "igcv2" or (plan.depths[s] == 1 and plan.widths[s] != plan.widths[s + 1]):
        return forms

    def loose(form: StageForm) -> bool:
        chosen = dict(form[1])
        return math.prod(chosen["branch_widths"]) * chosen["spatial_branch_width"] != plan.widths[s + 1]

    return tuple(sorted(forms, key=loose))


def plan_cost(plan: Plan, problem: Problem, chosen: tuple[StageForm, ...] = ()) -> Cost:
    """Cost of the network of a plan, the same as its `Architecture.cost`.

    Args:
        chosen: the forms of the first stages; the others stand at their cheapest.
    """
    family, schedule, depths, widths, number, spatial, head, residual = plan
    (params, macs), size = stem(problem.in_channels, widths[0], stride=schedule.stem).cost_at(problem.image_size)
    given = len(chosen)
    for s, stride in enumerate(schedule.stages):
        width, out_width, depth = widths[s], widths[s + 1], depths[s]
        if s < given:
            more = stage_cost(family, chosen[s], width, out_width, depth, stride, residual, size)
        else:
            more = cheapest_cost(family, number, spatial, width, out_width, depth, stride, residual, size)
        params += more[0]
        macs += more[1]
        size = more[2]
    features = widths[-1]
    if head:
        features = widths[-1] * head // 2
        params += (widths[-1] + 2) * features
        macs += widths[-1] * features * size * size
    return Cost(params + (features + 1) * problem.num_classes, macs + features * problem.num_classes)


def build(
    plan: Plan,
    chosen: tuple[StageForm, ...],
    problem: Problem,
    *,
    activation: str = "relu",
    shuffle: str = "interleave",
    groups: str = "searched",
) -> Architecture:
    """The network of a plan with the forms chosen for its stages.

    Args:
        shuffle: interleave; or random wherever that keeps the block's level, with another seed for each block of a stage; or
            learned wherever there is something to learn.
        groups: searched: as the forms say; or learned wherever there is something to learn.
    """
    stages = []
    for s, (form, depth, stride) in enumerate(zip(chosen, plan.depths, plan.schedule.stages, strict=True)):
        width, out_width = plan.widths[s : s + 2]
        blocks = []
        for b in range(depth):
            ends = (width if b == 0 else out_width, out_width)
            options: dict[str, Any] = {"residual": plan.residual, "activation": activation}
            if shuffle == "random" and any_shuffle(plan.family, form[b > 0], *ends):
                options |= {"shuffle": "random", "shuffle_seed": b}
            blocks.append(block(plan.family, form[b > 0], *ends, stride=stride if b == 0 else 1, **options))
        stages.append(Stage(tuple(blocks)))
    made: Architecture = network(
        problem,
        plan.widths[0],
        stages,
        stem_stride=plan.schedule.stem,
        head_width=plan.widths[-1] * plan.head // 2 if plan.head else None,
        activation=activation,
    )
    if groups == "learned":
        made = opened_groups(made)
    return opened(made) if shuffle == "learned" else made


def any_shuffle(family: str, form: Form, in_channels: int, out_channels: int) -> bool:
    """True if any permutation behind the 3x3 keeps the block's level: a channel-wise 3x3 without a width change, of products."""
    if in_channels != out_channels:
        return False
    return family == "butterfly" or (family == "igcv2" and dict(form)["spatial_branch_width"] == 1)


def _is_smooth(width: int) -> bool:
    """True if no prime factor is above 5."""
    for prime in (2, 3, 5):
        while width % prime == 0:
            width //= prime
    return width == 1
