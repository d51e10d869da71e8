"""`train_in_study`: igcsearch.training.train for a study's own checkpoints, of candidates and of retrainings.

A checkpoint that a user named is never overwritten. Those inside a study are ours: one that is damaged costs its epochs,
not the candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from igcsearch.spec import Architecture
from igcsearch.training import CheckpointError, ImageData, Recipe, TrainResult, train


def train_in_study(
    architecture: Architecture,
    data: ImageData,
    recipe: Recipe,
    *,
    checkpoint: Path,
    on_note: Callable[[str], None],
    **options: Any,
) -> TrainResult:
    """As `train`, which takes the `options` too; a checkpoint that it cannot go on from is removed, and `on_note` told."""
    try:
        return train(architecture, data, recipe, checkpoint=checkpoint, **options)
    except CheckpointError as error:
        checkpoint.unlink(missing_ok=True)  # each process of a group comes here
        on_note(f"training begins anew: {str(error).rpartition('; ')[0]}")
    return train(architecture, data, recipe, checkpoint=checkpoint, **options)
