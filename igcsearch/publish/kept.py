"""Results of steps that stay on disk, so that the same call does not make them again. Floor 7."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UsageError
from ..files import atomic_write
from ..spec.serialise import canonical


class Kept:
    """One result, in FOLDER/NAME-KEY.safetensors; of another identity it is another file.

    Args:
        folder: made when something is written.
        name: what kind of step it is.
        identity: JSON data of everything that the result depends on.
    """

    def __init__(self, folder: Path, name: str, identity: Any) -> None:
        key = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
        self.path = folder / f"{name}-{key}.safetensors"

    def read(self) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors and the JSON data that were written; None where there are none, or none that can be read."""
        try:
            with safe_open(self.path, "pt") as held:
                tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - no mapping
                return tensors, json.loads((held.metadata() or {})["facts"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def write(self, tensors: Mapping[str, Tensor], facts: Any) -> None:
        """Write both, at once or not at all.

        Raises:
            UsageError: a folder that cannot be written.
        """
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"facts": json.dumps(facts)})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, data)
        except OSError as error:
            raise UsageError(f"{self.path.parent} cannot be written: {error.strerror}; choose another --out") from None
