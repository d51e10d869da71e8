"""Where candidates under way keep their state: BASE/HASH/checkpoint.safetensors, one folder a candidate, by its hash."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = "candidates", "checkpoint.safetensors"


class Checkpoints:
    """The checkpoints of one study.

    Args:
        base: a folder that every worker sees.
    """

    def __init__(self, base: Path) -> None:
        self.base = base

    def place(self, hash: str) -> str:
        """The path of a candidate's checkpoint; its folder is made."""
        path = self.base / hash / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def clear(self, hash: str) -> None:
        """A candidate that is told has no more use for it."""
        shutil.rmtree(self.base / hash, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the base where no candidate is under way."""
        with suppress(OSError):
            self.base.rmdir()
