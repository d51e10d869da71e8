"""Files written whole or not at all."""

import os
from pathlib import Path

import pytest

from igcsearch.files import atomic_write, replacing


def test_a_file_is_replaced_by_all_of_its_new_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for content in ("ä\n", b"\0\r\n"):
        atomic_write(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["f"]


# Rule: whatever goes wrong, the former file stays and nothing lies beside it; meanwhile what is written is hidden.
def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("before")

    def interrupted() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            assert beside.name.startswith(".f.")
            assert path.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(OSError, match="No such file"):
        atomic_write(tmp_path / "nowhere" / "f", "x")
    assert (os.listdir(tmp_path), path.read_text()) == (["f"], "before")
