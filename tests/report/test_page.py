"""The page of a study: self-contained, escaped, small, and right for studies with little or nothing in them."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from igcsearch.errors import UsageError
from igcsearch.report import write_report
from igcsearch.report.facts import collect
from igcsearch.report.page import render
from igcsearch.search.latency import LatencySetting, LatencyTable

Make = Callable[..., Any]
EVIL = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


class Tags(HTMLParser):
    """Collects tags with their attributes, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_page_is_one_file_without_outside_resources(make_study: Make, tmp_path: Path) -> None:
    study = make_study()
    path = write_report(study, tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.", page.replace("// ", ""))
    assert not re.search(r"@import|url\(|<link|<iframe|\bsrc=|fetch\(|XMLHttp", page)
    assert path.stat().st_size < 500_000
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert write_report(study) == study.path / "report.html"


def test_page_holds_the_figures_of_the_study(make_study: Make) -> None:
    study = make_study(trained=14, stopped=4, settled=9, failed=1)
    page = render(collect(study, study.path))
    data, best = data_of(page), study.best()
    assert len(data["rows"]) == 14 + 4 + 1
    assert {row["id"] for row in data["rows"] if row["front"]} == {c.id for c in study.front()}
    assert f"{100 * best.accuracy:.2f} %" in page
    assert f"{best.params:,}" in page
    assert "68 %" in page  # 19 of 28 proposals accepted
    assert "9 settled untrained: too many parameters" in page
    assert data["best_so_far"][-1][1] == pytest.approx(best.accuracy, abs=1e-6)
    assert [point[0] for point in data["best_so_far"]] == sorted(point[0] for point in data["best_so_far"])
    assert "fANOVA over 14 complete candidates" in page
    assert 'data-wiring="' in page


# Rule: latencies that are predicted are called so, and the page says how far the prediction is off.
def test_page_says_that_latencies_are_predicted_and_how_well(make_study: Make) -> None:
    study = make_study(trained=3)
    assert data_of(render(collect(study)))["latency"] == "latency"
    study.found = [dataclasses.replace(c, latency_ms=1.5) for c in study.found]
    study.latency = LatencyTable(
        LatencySetting("cpu", 8, 2), {"a": (1.0, 1.0)}, ((), ()), checks=((1.0, 1.1), (2.0, 2.0))
    )
    page = render(collect(study))
    assert data_of(page)["latency"] == "predicted latency"
    assert ">Predicted latency</button>" in page
    assert "predicted for cpu, batch 8, 2 threads, from 1 part measured; on 2 whole networks off by" in page


def test_text_from_outside_is_escaped(make_study: Make) -> None:
    study = make_study(trained=3, stopped=1, settled=1, failed=1)
    study.found = [dataclasses.replace(c, reason=EVIL, family=EVIL) for c in study.found]
    study.config = dataclasses.replace(study.config, space=EVIL)
    (study.path / "publish").mkdir()
    finalist = {"id": EVIL, "family": EVIL, "entry": EVIL, "chosen": True, "validation_accuracy": 0.9, "seeds": []}
    (study.path / "publish" / "finalists.json").write_text(json.dumps({"finalists": [finalist]}))
    page = render(collect(study, study.path))
    tags = Tags(page).seen
    assert sum(tag == "script" for tag, _ in tags) == 2
    assert all(tag != "img" for tag, _ in tags)
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert data_of(page)["rows"][0]["family"] == EVIL


def test_retraining_is_shown_whenever_it_was_done(make_study: Make) -> None:
    study = make_study(trained=5)
    before = render(collect(study, study.path))
    assert "Kendall" not in before
    assert "Finalists" not in before
    trained = [c for c in study.found if c.state in ("complete", "stopped")]
    pairs = [
        {"id": c.id, "state": c.state, "search_accuracy": c.accuracy, "retrained_accuracy": 0.9 + 0.01 * n}
        for n, c in enumerate(trained)
    ]
    rows = [{"id": 1, "family": "igcv2", "search_accuracy": 0.9, "chosen": True, "entry": "net", "seeds": [{}, {}]}]
    rows[0] |= {"validation_accuracy": 0.991, "validation_std": 0.002, "test_accuracy": 0.985, "test_std": 0.001}
    (study.path / "publish").mkdir()
    (study.path / "publish" / "agreement.json").write_text(json.dumps({"tau": 0.61, "p_value": 0.01, "pairs": pairs}))
    (study.path / "publish" / "finalists.json").write_text(json.dumps({"finalists": rows, "epochs": 40}))
    page = render(collect(study, study.path))
    assert "Kendall's tau is <b>0.61</b>" in page
    assert len(data_of(page)["agreement"]) == len(pairs)
    assert "99.10 ± 0.20 %" in page
    assert "98.50 ± 0.10 %" in page
    # Files that cannot be read are no reason to have no page.
    (study.path / "publish" / "agreement.json").write_text("{")
    assert "Kendall" not in render(collect(study, study.path))


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 2, 3, 1), (2, 0, 0, 0)])
def test_page_of_a_small_study(make_study: Make, counts: tuple[int, ...]) -> None:
    study = make_study(*counts)
    page = render(collect(study, study.path))
    data_of(page)
    assert "too few to judge" in page
    assert ("No candidate is complete yet" in page) == (counts[0] == 0)


def test_values_that_are_no_numbers_leave_valid_json(make_study: Make) -> None:
    study = make_study(trained=2, stopped=0, settled=0, failed=0)
    curve = [{"epoch": 1, "validation_accuracy": float("nan")}]
    study.found[0] = dataclasses.replace(study.found[0], accuracy=float("nan"), curve=curve)
    rows = data_of(render(collect(study, study.path)))["rows"]
    assert None in [row["accuracy"] for row in rows]


def test_a_page_that_cannot_be_written_is_the_users_to_mend(make_study: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose another file"):
        write_report(make_study(1, 0, 0, 0), tmp_path / "missing" / "page.html")


def test_style_and_script_are_packaged() -> None:
    root = Path(__file__).parents[2]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert {"page.css", "page.js"} <= set(listed.get("igcsearch.report", []))
