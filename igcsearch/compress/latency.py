"""How long layers take by their number of groups, where the network will run: what a limit on latency is held against. Floor 6."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..nn import measure
from ..nn.graph import GraphNetwork
from ..nn.graph_inference import GraphInference, Shape, planned, unit_ms
from ..nn.graph_units import Unit, units, without_norms
from ..nn.plans import PlanTimes
from ..spec.graph import GraphArchitecture
from .configuration import Table, Times
from .progress import Progress, Say, silent

THREADS = 1
_RUNS = 15  # passes of whole networks


class Clock:
    """Measures a dense network's layers and what becomes of it, for one image on one thread of this machine's CPU.

    Attributes:
        dense_ms: of the network itself, optimized for inference.
        known: times of layers, which are not measured again.
    """

    def __init__(self, graph: GraphArchitecture, state: Mapping[str, Tensor]) -> None:
        with measure.torch_threads(THREADS):
            self.known = PlanTimes(torch.device("cpu"))
        self.graph = graph
        self._dense = self._ready(graph, state)
        self._state = state
        self.dense_ms = self._median([self._dense])[0]

    def times(self, found: Sequence[Table], say: Say = silent) -> Times:
        """The times of every option of the tables.

        What each dense layer takes is its share of whole passes; what another option takes of that is measured on the layer alone.
        """
        dense = {unit.node.name: unit for unit in units(without_norms(self.graph)[0]).values()}
        network = _network(self.graph, self._state)
        example = measure.example_images(network, 1)
        rests: list[float] = []
        progress = Progress("layers timed", say)
        options: list[list[list[float]]] = []
        with measure.torch_threads(THREADS):
            shapes = self._dense.shapes(example)
            for form in (False, True):
                ready = planned(network, shapes, form, self.known)[1]
                layers, total = ready.layer_ms(example)
                scale = self.dense_ms * (self._in_turn(ready) / total)
                rests.append(scale * (total - sum(layers[table.name] for table in found)))
                options.append([])
                for number, table in enumerate(found):
                    progress.at((form + number / len(found)) / 2)
                    unit, layer = dense[table.name], self.graph.node(table.name)
                    given, made = ((1, *self.graph.shapes[name]) for name in (layer.reads[0], layer.name))
                    alone = [self._alone(unit, option.groups, given, made, form) for option in table.options]
                    options[-1].append([scale * layers[table.name] * ms / alone[0] for ms in alone])
        pairs = [tuple(zip(first, last, strict=True)) for first, last in zip(*options, strict=True)]
        return Times((rests[0], rests[1]), tuple(pairs))

    def _alone(self, unit: Unit, groups: int, given: Shape, made: Shape, channels_last: bool) -> float:
        grouped = replace(unit, node=replace(unit.node, operation=replace(unit.convolution, groups=groups)))
        return min(unit_ms(grouped, given, made, channels_last, self.known).values())

    def _in_turn(self, other: GraphInference) -> float:
        """How many times the dense network's milliseconds another takes."""
        dense, ms = self._median([self._dense, other])
        return ms / dense

    def latency(self, architecture: GraphArchitecture, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `measure.latency` gives of another network, its passes in turn with the dense one's, which are `dense_ms` then."""
        networks = [self._dense, self._ready(architecture, state)]
        dense, other = measure.latencies(networks, threads=THREADS, runs=2 * _RUNS)
        self.dense_ms = float(dense["median_ms"])
        return other

    def layers(
        self, architecture: GraphArchitecture, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Milliseconds of each convolution, by its name, inside passes of the dense network and of another, which take turns."""
        networks = (self._dense, self._ready(architecture, state))
        images = measure.example_images(self._dense, 1)
        found: list[list[dict[str, float]]] = [[], []]
        with measure.torch_threads(THREADS):
            for _ in range(_RUNS):
                for network, into in zip(networks, found, strict=True):
                    into.append(network.layer_ms(images, runs=1)[0])
        before, now = ({name: statistics.median(run[name] for run in runs) for name in runs[0]} for runs in found)
        return before, now

    def ms(self, architecture: GraphArchitecture, state: Mapping[str, Tensor]) -> float:
        """Milliseconds of another network, against the dense one in turn: as if the machine ran as it did for `dense_ms`."""
        return self.dense_ms * self._in_turn(self._ready(architecture, state))

    def _ready(self, architecture: GraphArchitecture, state: Mapping[str, Tensor]) -> GraphInference:
        ready = measure.optimized(_network(architecture, state), threads=THREADS, known=self.known)
        assert isinstance(ready, GraphInference)
        return ready

    def _median(self, networks: Sequence[GraphInference]) -> list[float]:
        return [float(found["median_ms"]) for found in measure.latencies(networks, threads=THREADS, runs=_RUNS)]


def _network(architecture: GraphArchitecture, state: Mapping[str, Tensor]) -> GraphNetwork:
    network = GraphNetwork(architecture).eval()
    network.load_state_dict(dict(state))
    return network
