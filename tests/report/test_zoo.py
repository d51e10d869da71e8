"""The page of a zoo: what is on it, that nothing is fetched and nothing from an entry becomes markup, and whose file it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from igcsearch.blocks import dense, network, stage
from igcsearch.entries import write_entry
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.report import write_zoo_page
from igcsearch.spec import Problem


def entry(zoo: Path, name: str, width: int, accuracy: float | None, **metrics: Any) -> None:
    torch.set_num_threads(1)
    architecture = network(Problem(8, 1, 10), width, [stage(dense, width, 16, 1, stride=2)])
    values = {"data": "digits", "family": "dense", "accuracy": accuracy, "accuracy_std": 0.01, "seeds": [{}, {}]}
    write_entry(zoo / name, architecture, build(architecture, seed=0).state_dict(), values | metrics)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    rungs = {"params-2k": {"params": 2_000}, "params-4k": {"params": 4_000}}
    entry(tmp_path, "small", 8, 0.9, provenance={"rungs": rungs})
    entry(tmp_path, "large", 16, 0.95, provenance={"rungs": {"macs-1M": {"macs": 1_000_000}}})
    entry(tmp_path, "worse", 20, 0.8)
    return tmp_path


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_every_entry_is_a_point_and_a_link(zoo: Path) -> None:
    page = write_zoo_page(zoo).read_text(encoding="utf-8")
    data = data_of(page)
    assert {row["name"]: row["accuracy"] for row in data["rows"]} == {"small": 0.9, "large": 0.95, "worse": 0.8}
    assert {row["name"] for row in data["rows"] if row["front"]} == {"small", "large"}, "those that none beats"
    for name in ("small", "large", "worse"):
        assert f'<a href="{name}/README.md">' in page
        assert (zoo / name / "README.md").is_file()


def test_rungs_are_marked_and_a_network_of_two_is_said(zoo: Path) -> None:
    page = write_zoo_page(zoo).read_text(encoding="utf-8")
    assert data_of(page)["rungs"] == [
        {"name": "macs-1M", "macs": 1_000_000},
        {"name": "params-2k", "params": 2_000},
        {"name": "params-4k", "params": 4_000},
    ]
    assert "also params-4k" in page
    assert "2,000 parameters" in page


def test_page_is_self_contained(zoo: Path) -> None:
    page = write_zoo_page(zoo).read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "http" not in page.replace("igcsearch", "")


def test_several_data_sets_are_not_drawn_together(zoo: Path) -> None:
    entry(zoo, "other", 24, 0.5, data="letters")
    page = write_zoo_page(zoo).read_text(encoding="utf-8")
    data = data_of(page)
    assert {row["data"] for row in data["rows"]} == {"digits"}
    assert set(data["sets"]) == {"digits", "letters"}
    assert 'data-set="letters"' in page


def test_what_an_entry_says_is_text(zoo: Path) -> None:
    entry(
        zoo, "evil", 28, 0.7, family="<script>alert(1)</script>", data='"><img src=x>', provenance={"rungs": {"<b>": 3}}
    )
    entry(zoo, "odd", 32, None, provenance={"rungs": ["params-2k"]}, epochs="many")
    page = write_zoo_page(zoo).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("<script") == 2
    data_of(page)


def test_empty_and_broken(tmp_path: Path, zoo: Path) -> None:
    (zoo / "worse" / "architecture.json").write_text("{")
    assert len(data_of(write_zoo_page(zoo).read_text())["rows"]) == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "No network is published" in write_zoo_page(empty).read_text()


def test_a_page_of_somebody_else_is_left_alone(zoo: Path) -> None:
    write_zoo_page(zoo)
    write_zoo_page(zoo)
    (zoo / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(UsageError, match="was not written by igcsearch"):
        write_zoo_page(zoo)
    assert (zoo / "index.html").read_text() == "<h1>mine</h1>"
    with pytest.raises(UsageError, match="cannot be written"):
        write_zoo_page(zoo / "nowhere")
