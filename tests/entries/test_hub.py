"""torch.hub sees the package's networks, from a checkout and from an archive unpacked without symbolic links."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from igcsearch.entries import Entry

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("blocks", "search_spaces", "results")
CODE = """
import sys
sys.modules.pop("igcsearch", None)
import torch
net = torch.hub.load(sys.argv[1], "net-digits-1k", source="local", pretrained=True, num_classes=3)
import igcsearch
assert igcsearch.__file__.startswith(sys.argv[1]), igcsearch.__file__
print(net.architecture.num_classes, net.training)
"""


def _copy(folder: Path, entry: Entry, links: bool) -> None:
    """The repository as a checkout, or as zipfile unpacks GitHub's archive: links become files that hold their target."""
    ignore = shutil.ignore_patterns("__pycache__", "studies")
    shutil.copy(ROOT / "hubconf.py", folder)
    shutil.copytree(ROOT / "igcsearch", folder / "igcsearch", symlinks=True, ignore=ignore)
    for name in LINKS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        if not links:
            (folder / "igcsearch" / name).unlink()
            (folder / "igcsearch" / name).write_text(f"../{name}")
    shutil.copytree(entry.path, folder / "results" / entry.name)


@pytest.mark.parametrize("links", [True, False])
def test_hub_loads_a_network(tmp_path: Path, entry: Entry, links: bool) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    _copy(repository, entry, links)
    environment = {**os.environ, "IGCSEARCH_ZOO": str(tmp_path / "none")}
    command = [sys.executable, "-c", CODE, str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "False"]


def test_hub_lists_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every public callable of hubconf is an entry point of torch.hub: nothing else may be there."""
    from igcsearch.entries import list_entries

    names: dict[str, object] = {"__file__": str(ROOT / "hubconf.py")}
    exec(compile((ROOT / "hubconf.py").read_text(), "hubconf.py", "exec"), names)
    public = {name for name, value in names.items() if callable(value) and not name.startswith("_")}
    assert public == {entry.name for entry in list_entries() if entry.zoo == "package"}
