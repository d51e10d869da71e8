"""Tables, names and recorded facts, without any training."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.entries import Entry, read_folder, write_entry
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.publish import table, write_table
from igcsearch.publish.facts import commit, mean_and_std, versions
from igcsearch.publish.finalists import entry_name
from igcsearch.publish.tables import page

from .studies import digits_net


def written(folder: Path, number: int, **metrics: Any) -> Entry:
    architecture = digits_net(number)
    return write_entry(folder, architecture, build(architecture, seed=0).state_dict(), {"data": "digits", **metrics})


@given(st.text(max_size=30), st.text(max_size=30), st.integers(1, 10**9), st.from_regex("[0-9a-f]{8}", fullmatch=True))
def test_names_are_letters_digits_hyphens_underscores(family: str, data: str, params: int, digest: str) -> None:
    name = entry_name(family, data, params, digest)
    assert re.fullmatch("[A-Za-z0-9_-]+", name)
    assert name.endswith(digest)


def test_names_by_example() -> None:
    assert entry_name("igcv2", "digits", 18_432, "1a2b3c4d") == "igcv2-digits-18k-1a2b3c4d"
    assert (
        entry_name("igcv2+dense", "fashion-mnist", 1_500_000, "00000000") == "igcv2-dense-fashion-mnist-1500k-00000000"
    )
    assert entry_name("igcv3", "my data.npz", 999, "ffffffff") == "igcv3-my-data-npz-999-ffffffff"
    assert entry_name("xception", "imagenet", 23_000_000, "0a0a0a0a") == "xception-imagenet-23M-0a0a0a0a"


def test_table_has_the_best_first(tmp_path: Path) -> None:
    runs = [{"seed": 0}, {"seed": 1}]
    low = written(tmp_path / "low", 1, accuracy=0.9, accuracy_std=0.012, seeds=runs, epochs=3)
    high = written(tmp_path / "high", 0, accuracy=0.95, accuracy_std=None, seeds=runs[:1])
    lines = table([low, high]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| [high](high/README.md) | digits |")
    assert "95.00 % (1 seed)" in lines[2]
    assert "90.00 ± 1.20 % (2 seeds)" in lines[3]
    assert f"{low.architecture.params:,}" in lines[3]


def test_write_table_is_repeatable_and_leaves_others_files_alone(tmp_path: Path) -> None:
    written(tmp_path / "net", 0)
    path = write_table(tmp_path)
    first = path.read_text()
    assert write_table(tmp_path).read_text() == first
    assert "[net](net/README.md)" in first
    path.write_text("# My notes\n")
    with pytest.raises(UsageError, match="not written by igcsearch"):
        write_table(tmp_path)
    assert path.read_text() == "# My notes\n"


def test_the_repositorys_table_is_up_to_date(root: Path) -> None:
    """results/README.md says what the entries beside it say."""
    if not any(root.glob("results/*/metrics.json")):
        pytest.skip("no network is published in the repository")
    assert (root / "results" / "README.md").read_text(encoding="utf-8") == page(root / "results")


def test_tables_need_no_torch(tmp_path: Path) -> None:
    written(tmp_path / "net", 0)
    code = (
        "import sys; from igcsearch.publish import write_table, read_finalists, table;"
        "write_table(sys.argv[1]); assert not {'torch', 'optuna', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_folder(tmp_path / "net").name == "net"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_mean_and_deviation(values: list[float]) -> None:
    mean, std = mean_and_std(values)
    assert mean == pytest.approx(sum(values) / len(values))
    if len(values) == 1:
        assert std is None
    else:
        assert std == pytest.approx(statistics.variance(values) ** 0.5)


def test_facts_of_this_checkout() -> None:
    assert {"python", "torch", "igcsearch", "platform"} <= set(versions())
    found = commit()["commit"]
    assert found is None or re.fullmatch("[0-9a-f]{40}", found)
