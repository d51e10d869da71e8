"""What retraining a study's candidates leaves in its folder: STUDY/publish/finalists.json, agreement.json. Read without torch.

Written by igcsearch.publish, read by it and by igcsearch.report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from igcsearch.files import atomic_write

FOLDER, FINALISTS, AGREEMENT = "publish", "finalists.json", "agreement.json"


def read_finalists(study_folder: str | Path) -> dict[str, Any] | None:
    """What `publish` stored last: {"epochs", "data", "split", "recipe", "finalists": [...]}; None where nothing was.

    With "chosen_by": "id" where the finalists were named; without it the chosen are the best.
    """
    return read_json(Path(study_folder) / FOLDER / FINALISTS)


def read_agreement(study_folder: str | Path) -> dict[str, Any] | None:
    """What `agreement` stored last: {"tau", "p_value", "pairs": [...], ...}; None where nothing was."""
    return read_json(Path(study_folder) / FOLDER / AGREEMENT)


def write_json(path: Path, value: object) -> None:
    """Write JSON by atomic rename; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is no such file or no object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
