"""Files written whole or not at all: a process that dies meanwhile leaves the former file. Floor 0, no dependencies."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def atomic_write(path: Path, content: bytes | str) -> None:
    """Put a file in its place by rename, synced; its folder must be there. Raises OSError, and then changes nothing."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path` for the block to write to; then it is synced and takes the place of `path`.

    Raises OSError for a place that cannot be written. Whatever is raised, `path` stays and nothing lies beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        sync_file(beside)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Have the system write a file's content to the disk, so that no rename can overtake it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can; a rename is atomic all the same."""
    with suppress(OSError):  # some systems do not open folders, some file systems refuse to sync them
        sync_file(folder)
