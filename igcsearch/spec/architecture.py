"""What every architecture is: one whole network as frozen pure data; its kinds are staged.py and graph.py. Floor 0.

This is what travels: between processes and machines, into a study, into an entry. nn builds it, conditions.py judges it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from ..errors import UsageError
from .problem import Budget, Cost, Problem
from .serialise import check_object

if TYPE_CHECKING:
    from .block import Block, Step

SCHEMA = 1
#: What turns a document of schema n into one of n + 1. Entries and studies keep theirs for good, so none is ever removed.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
KINDS = ("staged", "graph")


class Architecture(ABC):
    """One whole network: of the kind `staged` (stem, stages of blocks, head: what searches propose) or `graph` (operations).

    Attributes:
        in_channels, image_size: input of shape (N, in_channels, image_size, image_size).
        num_classes: logits of shape (N, num_classes).
    """

    in_channels: int
    image_size: int
    num_classes: int

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """Closed-form parameters and multiply-adds of one image (convolutions and linear layers), exact."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """8 hexadecimal digits of the SHA-256 of the normalised JSON data less the schema version; fixed for good."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Equivalence key, 16 hexadecimal digits: equal for architectures that are known to be the same network."""

    @property
    @abstractmethod
    def family(self) -> str:
        """What the network is made of, in a word."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON data with the schema version."""

    @abstractmethod
    def with_(
        self, *, num_classes: int | None = None, in_channels: int | None = None, image_size: int | None = None
    ) -> Self:
        """The same network for another number of classes, input channels or image size.

        Raises:
            UsageError: the network cannot be made so.
        """

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """(name, block) in order; a graph has none."""
        yield from ()

    def sized_blocks(self) -> Iterator[tuple[str, Block, int]]:
        """(name, block, side of the map that it reads) in order, as `blocks` names them."""
        yield from ()

    def with_blocks(self, blocks: Sequence[Block]) -> Self:
        """The same network with other blocks, one for each that `blocks` gives."""
        return self

    @property
    def head_steps(self) -> tuple[Step, ...]:
        """What stands between the last block and the pooling; a graph has nothing of that kind."""
        return ()

    @property
    @abstractmethod
    def features(self) -> int:
        """Channels that the last linear layer reads."""

    @property
    def params(self) -> int:
        """Trainable parameters, batch norm and biases included."""
        return self.cost.params

    @property
    def macs(self) -> int:
        """Multiply-adds of one image, as a masked convolution runs them and counters see them."""
        return self.cost.macs

    @property
    @abstractmethod
    def nonzero_macs(self) -> int:
        """`macs` without the multiply-adds with weights that an N:M sparsity leaves out (spec/sparsity.py)."""

    def problem(self, budget: Budget | None = None) -> Problem:
        """The problem that the network answers."""
        return Problem(self.image_size, self.in_channels, self.num_classes, budget or Budget())

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)

    @staticmethod
    def from_dict(data: Any) -> Architecture:
        """The inverse of `to_dict`, for every kind, for this schema version and every older one.

        Raises:
            UsageError: a newer schema, an unknown kind, or data that is no architecture, with its place in the document.
        """
        from .graph import parse_graph
        from .staged import parse_staged

        fields = dict(check_object(data, "architecture"))
        schema = fields.pop("schema", None)
        if type(schema) is not int or schema < 1:
            raise UsageError(f"architecture.schema: expected a version from 1 to {SCHEMA}, found {schema!r}")
        if schema > SCHEMA:
            raise UsageError(
                f"architecture.schema: {schema} is newer than {SCHEMA}, the newest known here; update igcsearch"
            )
        for version in range(schema, SCHEMA):
            fields = MIGRATIONS[version](fields)
        kind = fields.pop("kind", "staged")
        if kind not in KINDS:
            raise UsageError(f"architecture.kind: {kind!r} is unknown here; known: {', '.join(KINDS)}")
        return parse_graph(fields) if kind == "graph" else parse_staged(fields)

    @staticmethod
    def from_json(text: str) -> Architecture:
        """The inverse of `to_json`.

        Raises:
            UsageError: text that is no JSON, or as `from_dict`.
        """
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UsageError(f"architecture: not JSON ({error})") from None
        return Architecture.from_dict(data)
