"""What passes between coordinator and engines, as plain data: a candidate to train, and what workers found in the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from igcsearch.spec import Budget, Problem

MAX_ATTEMPTS = 3  # of a piece of work whose process dies


@dataclass(frozen=True)
class Job:
    """One candidate to train: everything a worker needs, and all that travels to it.

    Attributes:
        id: of the candidate.
        architecture: as JSON text.
        recipe: as JSON data, with the candidate's own seed.
        checkpoint: path of the file that training writes each epoch and goes on from.
        attempt: 1, or more after a worker died.
    """

    id: int
    architecture: str
    recipe: dict[str, Any]
    checkpoint: str
    attempt: int = 1


@dataclass(frozen=True)
class DataFacts:
    """What a worker found when it loaded the images and chose its device.

    Attributes:
        name: of the data set.
        image_size, in_channels, num_classes: of the problem.
        train, validation, test: images in each split.
        recipe: the recipe with every entry resolved for these images, as JSON data.
        device, threads: of the worker.
        versions: of Python and the libraries.
        fingerprint: of the images and their splits.
    """

    name: str
    image_size: int
    in_channels: int
    num_classes: int
    train: int
    validation: int
    test: int
    recipe: dict[str, Any]
    device: str = "cpu"
    threads: int = 1
    versions: Mapping[str, str] | None = None
    fingerprint: str = ""

    def problem(self, budget: Budget) -> Problem:
        """The problem that candidates answer."""
        return Problem(self.image_size, self.in_channels, self.num_classes, budget)
