"""A network as a graph of operations: the kind of architecture that a foreign network becomes when it is compressed. Floor 0.

Nodes stand in an order in which each reads only earlier ones; "input" is the image, the last node gives the logits. Names are those
of the modules that a network was made of, so that a state dict keeps its keys.
"""

from __future__ import annotations

import hashlib
import math
import types
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import UsageError, near
from .architecture import SCHEMA, Architecture
from .operations import OPERATIONS, Convolution, Linear, Operation, Shape
from .problem import Cost, Problem
from .serialise import canonical, check_fields, check_list, check_object

INPUT = "input"


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Args:
        name: unique; a dotted path, under which its parameters stand in the state dict.
        operation: what it does.
        reads: names of the nodes that it reads, "input" for the image.
        shares: an earlier node whose parameters it uses: one module that is called twice.
    """

    name: str
    operation: Operation
    reads: tuple[str, ...]
    shares: str | None = None


@dataclass(frozen=True)
class GraphArchitecture(Architecture):
    """One whole network of the kind `graph`.

    Args:
        in_channels, image_size: input of shape (N, in_channels, image_size, image_size).
        num_classes: logits of shape (N, num_classes), made by the last node.
        nodes: in an order in which they can be computed.
        family: what it was made from, for people.

    Raises:
        UsageError: shapes that do not meet, with the node's name; a name that is not there, or twice there.
    """

    in_channels: int
    image_size: int
    num_classes: int
    nodes: tuple[Node, ...]
    family: str = "graph"

    def __post_init__(self) -> None:
        Problem(self.image_size, self.in_channels, self.num_classes)
        if not self.nodes:
            raise UsageError("a graph needs at least one node")
        seen: dict[str, Node] = {}
        for node in self.nodes:
            _check_node(node, seen)
            seen[node.name] = node
        made = self.shapes[self.nodes[-1].name]
        if made != (self.num_classes,):
            raise UsageError(
                f"node {self.nodes[-1].name!r} makes {'x'.join(map(str, made))}; logits of {self.num_classes} classes are expected"
            )

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shape that each node makes, and "input", without the batch."""
        shapes: dict[str, Shape] = {INPUT: (self.in_channels, self.image_size, self.image_size)}
        for node in self.nodes:
            try:
                shapes[node.name] = node.operation.shape(*(shapes[name] for name in node.reads))
            except UsageError as error:
                raise UsageError(f"node {node.name!r}: {error}") from None
        return shapes

    @cached_property
    def cost(self) -> Cost:
        """Closed-form parameters and multiply-adds of one image (convolutions and linear layers), exact."""
        params = sum(node.operation.params for node in self.nodes if node.shares is None)
        return Cost(params, sum(node.operation.macs(self.shapes[node.name]) for node in self.nodes))

    @cached_property
    def nonzero_macs(self) -> int:
        """`macs` without the multiply-adds with weights that an N:M sparsity leaves out (spec/sparsity.py)."""
        return sum(node.operation.nonzero_macs(self.shapes[node.name]) for node in self.nodes)

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            UsageError: there is none, with near matches.
        """
        found = self._by_name.get(name)
        if found is None:
            raise UsageError(f"no node {name!r}{near(name, self._by_name)}")
        return found

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """The nodes that read each node and "input", in order; a node that reads one twice is there twice."""
        found: dict[str, list[str]] = {INPUT: [], **{node.name: [] for node in self.nodes}}
        for node in self.nodes:
            for name in node.reads:
                found[name].append(node.name)
        return {name: tuple(names) for name, names in found.items()}

    def convolution(self, name: str) -> Convolution:
        """That of a node that is one."""
        operation = self.node(name).operation
        assert isinstance(operation, Convolution)
        return operation

    def convolutions(self) -> Iterator[tuple[Node, Convolution]]:
        """The nodes that are convolutions, with their operation."""
        for node in self.nodes:
            if isinstance(node.operation, Convolution):
                yield node, node.operation

    @property
    def classifier(self) -> Node | None:
        """The last node if it is a linear layer: what another number of classes changes."""
        last = self.nodes[-1]
        return last if isinstance(last.operation, Linear) and last.shares is None else None

    @property
    def features(self) -> int:
        """What the last linear layer reads; the number of classes where there is none at the end."""
        last = self.classifier
        return last.operation.in_features if last and isinstance(last.operation, Linear) else self.num_classes

    def with_nodes(self, nodes: Sequence[Node]) -> GraphArchitecture:
        """The same network with other nodes."""
        return replace(self, nodes=tuple(nodes))

    def with_(
        self, *, num_classes: int | None = None, in_channels: int | None = None, image_size: int | None = None
    ) -> GraphArchitecture:
        """The same network for another number of classes (its last linear layer), input channels (its dense first convolutions) or
        image size.

        Raises:
            UsageError: there is no such layer, or an image size that the network cannot take.
        """
        nodes = {node.name: node for node in self.nodes}
        if num_classes is not None and num_classes != self.num_classes:
            last = self.classifier
            if last is None or not isinstance(last.operation, Linear):
                raise UsageError("this network does not end in a linear layer, so its number of classes is fixed")
            nodes[last.name] = replace(last, operation=replace(last.operation, out_features=num_classes))
        if in_channels is not None and in_channels != self.in_channels:
            for name in self.readers[INPUT]:
                node = nodes[name]
                operation = node.operation
                dense = isinstance(operation, Convolution) and operation.groups == 1 and operation.nm is None
                if not isinstance(operation, Convolution) or not dense or node.shares is not None:
                    raise UsageError(
                        f"this network cannot read {in_channels} channels: {name!r}, which reads the image, is no dense convolution"
                    )
                nodes[name] = replace(node, operation=replace(operation, in_channels=in_channels))
        try:
            return replace(
                self,
                nodes=tuple(nodes.values()),
                num_classes=self.num_classes if num_classes is None else num_classes,
                in_channels=self.in_channels if in_channels is None else in_channels,
                image_size=self.image_size if image_size is None else image_size,
            )
        except UsageError as error:
            if image_size in (None, self.image_size):
                raise
            raise UsageError(
                f"this network cannot take images of {image_size} pixels a side ({self.image_size} it can): {error}"
            ) from None

    @cached_property
    def hash(self) -> str:
        """8 hexadecimal digits of the SHA-256 of the normalised JSON data less the schema version; fixed for good."""
        data = self.to_dict()
        del data["schema"]
        return hashlib.sha256(canonical(data).encode()).hexdigest()[:8]

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits: equal for graphs that are the same but for the names of their nodes."""
        numbers = {name: str(number) for number, name in enumerate([INPUT, *(node.name for node in self.nodes)])}
        nodes = [
            [_operation_data(n.operation), [numbers[r] for r in n.reads], numbers.get(n.shares or "")]
            for n in self.nodes
        ]
        sizes = [self.in_channels, self.image_size, self.num_classes]
        return hashlib.sha256(canonical([sizes, nodes]).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON data with the schema version. A node that reads the one before it alone does not say so."""
        nodes, before = [], INPUT
        for node in self.nodes:
            data = {"name": node.name, "op": node.operation.op, **_operation_data(node.operation)}
            if node.reads != (before,):
                data["reads"] = list(node.reads)
            if node.shares is not None:
                data["shares"] = node.shares
            nodes.append(data)
            before = node.name
        sizes = {"in_channels": self.in_channels, "image_size": self.image_size, "num_classes": self.num_classes}
        family = {} if self.family == "graph" else {"family": self.family}
        return {"schema": SCHEMA, "kind": "graph", **family, **sizes, "nodes": nodes}


def parse_graph(given: dict[str, Any]) -> GraphArchitecture:
    """The inverse of `GraphArchitecture.to_dict`, less "schema" and "kind".

    Raises:
        UsageError: data that is no graph, with its place in the document.
    """
    data = dict(given)
    nodes, before = [], INPUT
    for position, item in enumerate(check_list(data.pop("nodes", None), "architecture.nodes")):
        node = _parse_node(item, f"architecture.nodes[{position}]", before)
        nodes.append(node)
        before = node.name
    types_of = {"in_channels": int, "image_size": int, "num_classes": int, "family": str}
    sizes = check_fields(data, types_of, "architecture")
    if missing := [name for name in ("in_channels", "image_size", "num_classes") if name not in sizes]:
        raise UsageError(f"architecture: field {missing[0]!r} is missing")
    return GraphArchitecture(nodes=tuple(nodes), **sizes)


def _check_node(node: Node, seen: dict[str, Node]) -> None:
    if not node.name or node.name == INPUT or node.name in seen or not all(node.name.split(".")):
        raise UsageError(f"node name {node.name!r} is empty, {INPUT!r} or there twice")
    least, most = node.operation.reads
    if not least <= len(node.reads) <= most:
        raise UsageError(f"node {node.name!r}: {node.operation.op} cannot read {len(node.reads)} nodes")
    for name in node.reads:
        if name != INPUT and name not in seen:
            raise UsageError(f"node {node.name!r} reads {name!r}, which is no node before it")
    if node.shares is not None and (node.shares not in seen or seen[node.shares].operation != node.operation):
        raise UsageError(f"node {node.name!r} shares {node.shares!r}, which is no node before it of the same operation")


def _operation_data(operation: Operation) -> dict[str, Any]:
    """The fields that differ from their default."""
    data: dict[str, Any] = {}
    for field in fields(operation):
        value = getattr(operation, field.name)
        if isinstance(field.default, float) and value is not None:
            value = float(value)  # 1 and 1.0 are one text, and have one hash
        if value != field.default:
            data[field.name] = list(value) if isinstance(value, tuple) else value
    return data


def _parse_node(item: Any, where: str, before: str) -> Node:
    data = dict(check_object(item, where))
    name, op = data.pop("name", None), data.pop("op", None)
    shares = data.pop("shares", None)
    if not isinstance(name, str) or not isinstance(shares, str | None):
        raise UsageError(f"{where}: a name is missing or no text")
    if not isinstance(op, str) or op not in OPERATIONS:
        raise UsageError(
            f"{where}.op: unknown operation {op!r}{near(str(op), OPERATIONS)}; known: {', '.join(OPERATIONS)}"
        )
    reads = data.pop("reads", [before])
    if not isinstance(reads, list) or not all(isinstance(read, str) for read in reads):
        raise UsageError(f"{where}.reads: a list of names is needed, found {reads!r}")
    return Node(name, _parse_operation(OPERATIONS[op], data, where), tuple(reads), shares)


def _parse_operation(cls: type[Operation], data: dict[str, Any], where: str) -> Operation:
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            raise UsageError(f"{where}: unknown field {name!r}{near(name, known)}; known: {', '.join(known)}")
        values[name] = _as(hints[name], value, f"{where}.{name}")
    for name, field in known.items():
        if name not in values and field.default is MISSING:
            raise UsageError(f"{where}: field {name!r} is missing")
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _as(hint: Any, value: Any, where: str) -> Any:
    """`value` as a field of that annotation: whole numbers, numbers, flags, texts, tuples of whole numbers, or None."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _as(next(each for each in get_args(hint) if each is not type(None)), value, where)
    if origin is tuple:
        items = get_args(hint)
        whole = isinstance(value, list) and all(type(item) is int for item in value)
        if not whole or (items[-1] is not Ellipsis and len(value) != len(items)):
            size = "" if items[-1] is Ellipsis else f"{len(items)} "
            raise UsageError(f"{where}: expected a list of {size}whole numbers, found {value!r}")
        return tuple(value)
    if hint is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        kind = "a finite number" if hint is float else hint.__name__
        raise UsageError(f"{where}: expected {kind}, found {value!r}")
    return value
