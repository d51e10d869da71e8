"""The weights of a network for the same network with other group counts: pruned by the solver, no gathers. Floor 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from threadpoolctl import threadpool_limits
from torch import Tensor

from ..errors import UsageError
from ..spec import Budget
from ..spec.graph import GraphArchitecture
from ..spec.operations import Convolution
from .channels import Channels, channels_of
from .configuration import Table, configured, group_counts, option, tables
from .convert import converted
from .criterion import Matrix, criteria, groupable
from .gathers import settled
from .orders import Grouped
from .permute import grouped


def chosen(
    graph: GraphArchitecture, state: Mapping[str, Tensor], budget: Budget, criterion: str = "l2"
) -> dict[str, int]:
    """The group counts, by layer, with which least of the criterion is lost inside a budget, each layer taken for itself.

    Raises:
        UsageError: none are inside it; says the smallest.
    """
    found = tables(graph, criteria(graph, state, criterion))
    return {table.name: option.groups for table, option in zip(found, configured(graph, found, budget), strict=True)}


def choices(graph: GraphArchitecture) -> dict[str, tuple[int, ...]]:
    """For each layer that can be given groups, by its name, the group counts that it can have, 1 first."""
    counts = {node.name: tuple(group_counts(convolution)) for node, convolution in groupable(graph)}
    return {name: groups for name, groups in counts.items() if len(groups) > 1}


@dataclass(frozen=True, eq=False)
class Pruner:
    """Prunes a network's weights to group counts that are given, as `permute` with no gathers does to those that it finds.

    What is known of one layer is kept for the next network.

    Args:
        graph, state: of the network.
        seed: of the search for orders.
        criterion: what a kernel is worth; l1 or l2.
    """

    graph: GraphArchitecture
    state: Mapping[str, Tensor] = field(repr=False)
    seed: int = 0
    criterion: str = "l2"
    _layers: dict[tuple[str, int], Grouped] = field(default_factory=dict, init=False, repr=False)

    def pruned(self, architecture: GraphArchitecture) -> dict[str, Tensor]:
        """The state dict for the network with the group counts of `architecture`; the network's own where they are the same.

        The same numbers on one machine, whatever threads there are: with them a training is known again.

        Raises:
            UsageError: what differs from the network in more than group counts of layers that can be given some.
        """
        counts = [
            (node.name, made.groups)
            for (node, _), made in ((each, self._made(architecture, each[0].name)) for each in groupable(self.graph))
            if made is not None and made.groups > 1
        ]
        if not counts:
            found, weights = self.graph, dict(self.state)
        else:
            with threadpool_limits(1, user_api="blas"):
                layers = [self._layer(*each) for each in counts]
                orders = settled(self._channels, layers, 0, seed=self.seed)
            found, weights = converted(self.graph, self.state, self._channels, orders.layers, orders.orders)
        if found.hash != architecture.hash:
            raise UsageError(
                f"architecture {architecture.hash} is not {self.graph.hash} with other group counts; take one of its own search"
            )
        return weights

    def _made(self, architecture: GraphArchitecture, name: str) -> Convolution | None:
        """The convolution of that name there; None where there is none."""
        node = next((node for node in architecture.nodes if node.name == name), None)
        return node.operation if node is not None and isinstance(node.operation, Convolution) else None

    @cached_property
    def _channels(self) -> Channels:
        return channels_of(self.graph)

    @cached_property
    def _criteria(self) -> dict[str, Matrix]:
        return criteria(self.graph, self.state, self.criterion)

    def _layer(self, name: str, groups: int) -> Grouped:
        """One layer with so many groups, and good orders for it alone."""
        if (name, groups) not in self._layers:
            node, matrix = self.graph.node(name), self._criteria[name]
            assert isinstance(node.operation, Convolution)
            found = option(node.operation, matrix, groups, self.graph.shapes[name])
            self._layers[name, groups] = grouped(Table(name, node.reads[0], matrix, (found,)), found)
        return self._layers[name, groups]
