"""Kept results: found by the same identity alone, whole or not at all."""

import pytest
import torch

from igcsearch.errors import UsageError
from igcsearch.publish.kept import Kept

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}


def test_the_same_identity_finds_it(tmp_path):
    Kept(tmp_path / "new", "step", [1, {"x": 2}]).write(TENSORS, {"said": [1, None]})
    found = Kept(tmp_path / "new", "step", [1, {"x": 2}]).read()
    assert found is not None
    tensors, facts = found
    assert facts == {"said": [1, None]}
    assert set(tensors) == {"a", "b"}
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert Kept(tmp_path / "new", "step", [1, {"x": 3}]).read() is None
    assert Kept(tmp_path / "new", "other", [1, {"x": 2}]).read() is None


def test_several_are_kept_beside_each_other(tmp_path):
    one, other = Kept(tmp_path, "step", 1), Kept(tmp_path, "step", 2)
    one.write(TENSORS, "one")
    other.write(TENSORS, "other")
    assert (one.read() or (None, None))[1] == "one"
    assert (other.read() or (None, None))[1] == "other"


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 100])
def test_damage_is_nothing(tmp_path, damage):
    kept = Kept(tmp_path, "step", 1)
    kept.write(TENSORS, None)
    kept.path.write_bytes(damage)
    assert kept.read() is None


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another --out"):
        Kept(tmp_path / "file", "step", 1).write(TENSORS, None)
