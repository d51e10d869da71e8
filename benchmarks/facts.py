"""What every benchmark says of where it ran."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """Versions and machine, as JSON data."""
    names = ("igcsearch", "torch", "optuna", "fvcore", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"python": sys.version.split()[0], **versions, "machine": platform.machine(), "processor": _processor()}


def save(path: str | None, rows: list[dict[str, Any]], more: Mapping[str, Any] | None = None) -> None:
    """Write rows with `facts`, and `more` of them, to a JSON file, if a path is given."""
    if path:
        Path(path).write_text(json.dumps({"facts": {**facts(), **(more or {})}, "rows": rows}, indent=1) + "\n")


def check_output(parser: argparse.ArgumentParser, path: str | None) -> None:
    """End with a line before anything is measured if a file cannot be written there."""
    if path and not (Path(path).parent.is_dir() and os.access(Path(path).parent, os.W_OK)):
        parser.error(f"--json {path}: the folder is not there or cannot be written")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
