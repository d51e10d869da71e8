"""Names resolve in the package's zoo, then in the user's, then as a path; unknown names are told their near matches."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from igcsearch.entries import (
    Entry,
    create_model,
    list_entries,
    list_models,
    load,
    read_entry,
    user_zoo,
)
from igcsearch.errors import UsageError


def test_order_of_zoos(entry: Entry, zoos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(entry.path, tmp_path / entry.name)
    assert read_entry(entry.name).zoo == "user"
    shutil.copytree(entry.path, zoos["package"] / entry.name)
    assert read_entry(entry.name).path == zoos["package"] / entry.name
    assert [found.zoo for found in list_entries()] == ["package"], "a name is listed once, as it resolves"
    shutil.rmtree(zoos["package"] / entry.name)
    shutil.rmtree(zoos["user"] / entry.name)
    assert read_entry(entry.name).zoo == "path"
    assert read_entry(f"./{entry.name}").zoo == "path"


def test_paths_are_never_taken_for_names(entry: Entry) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_entry(f"elsewhere/{entry.name}")
    with pytest.raises(UsageError, match="does not exist"):
        load(entry.name)


def test_unknown_name_tells_near_ones(entry: Entry) -> None:
    with pytest.raises(UsageError, match=r"no model 'net-digit-1k' \(did you mean 'net-digits-1k'\?\)"):
        create_model("net-digit-1k")


@pytest.mark.parametrize("name", ["", "a\0b", "..", "~nobody/x", "no/such/folder", "nothing"])
def test_bad_names(zoos: dict[str, Path], name: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_entry(name)
    assert "\n" not in str(caught.value)


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="that is a file"):
        read_entry(tmp_path / "file")


def test_patterns(entry: Entry) -> None:
    assert list_models("net-*") == ["net-digits-1k"]
    assert list_models("*cifar1000*") == []


def test_unfinished_writes_are_not_listed(entry: Entry) -> None:
    shutil.copytree(entry.path, entry.path.with_name(".net-digits-1k.new-1"))
    (entry.path.parent / "no-entry").mkdir()
    assert list_models(pretrained=True) == ["net-digits-1k"]


def test_default_zoo_is_in_the_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IGCSEARCH_ZOO", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_zoo().parts[-2:] == ("igcsearch", "zoo")
    monkeypatch.setenv("IGCSEARCH_ZOO", "~/z")
    assert user_zoo() == Path.home() / "z"


def test_package_zoo_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real package's own zoo: every entry in it is whole (list_entries leaves broken ones out)."""
    monkeypatch.setenv("IGCSEARCH_ZOO", str(tmp_path))
    from igcsearch.entries.zoo import _folders, package_zoo

    root = package_zoo()
    assert root is not None
    assert root.is_dir()
    assert [entry.name for entry in list_entries()] == _folders(root)
