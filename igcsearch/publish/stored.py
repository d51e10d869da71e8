"""What publications leave in a study's folder, and reading it without torch: STUDY/publish/finalists.json, agreement.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER, FINALISTS, AGREEMENT = "publish", "finalists.json", "agreement.json"


def read_finalists(study_folder: str | Path) -> dict[str, Any] | None:
    """What `publish` stored last: {"epochs", "data", "split", "recipe", "finalists": [...]}; None where nothing was."""
    return read_json(Path(study_folder) / FOLDER / FINALISTS)


def read_agreement(study_folder: str | Path) -> dict[str, Any] | None:
    """What `agreement` stored last: {"tau", "p_value", "pairs": [...], ...}; None where nothing was."""
    return read_json(Path(study_folder) / FOLDER / AGREEMENT)


def write_json(path: Path, value: object) -> None:
    """Write JSON by atomic rename."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by atomic rename, synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is no such file or no object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
