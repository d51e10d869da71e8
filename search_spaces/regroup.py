"""The space `regroup`: a given network with other group counts, one parameter for each layer that can have several. Floor 2.

`igcsearch search regroup --init-from ENTRY`. The search (igcsearch.search.start) reads the network and which counts its layers can
have; candidates begin with its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from igcsearch.spec import Problem
from igcsearch.spec.graph import GraphArchitecture
from igcsearch.spec.operations import Convolution

from .choices import Trial
from .space import REGROUP, Space


@dataclass(frozen=True)
class Regroup:
    """The space's two functions, for one network.

    Args:
        graph: the network.
        choices: for each of its layers that can have groups, by its name, the group counts, the fewest first.
    """

    graph: GraphArchitecture
    choices: Mapping[str, Sequence[int]]

    def propose(self, trial: Trial, problem: Problem) -> GraphArchitecture:
        """The network with the group counts that the trial names, by layer; over the budget they are for the search to settle."""
        named = {name: tuple(map(str, counts)) for name, counts in self.choices.items()}
        return with_groups(
            self.graph, {name: int(trial.suggest_categorical(name, each)) for name, each in named.items()}
        )

    def smallest(self, problem: Problem) -> GraphArchitecture:
        """With the most groups everywhere: the fewest parameters and the fewest multiply-adds."""
        return with_groups(self.graph, {name: counts[-1] for name, counts in self.choices.items()})

    def parameters(self, counts: Mapping[str, int]) -> dict[str, str]:
        """The parameters that give those group counts, by layer; 1 where there is none."""
        return {name: str(counts.get(name, 1)) for name in self.choices}

    @property
    def space(self) -> Space:
        """As the search takes it."""
        summary = f"group counts of {len(self.choices)} layers of {self.graph.family}"
        return Space(REGROUP, self.propose, summary, self.smallest)


def with_groups(graph: GraphArchitecture, counts: Mapping[str, int]) -> GraphArchitecture:
    """The graph with those group counts, by the convolution's name; it keeps the others."""
    return graph.with_nodes(
        [
            replace(node, operation=replace(node.operation, groups=counts[node.name]))
            if node.name in counts and isinstance(node.operation, Convolution)
            else node
            for node in graph.nodes
        ]
    )
