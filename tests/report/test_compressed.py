"""The page of a compression: every figure of the record on it, what is missing said, names from outside only ever text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from igcsearch.errors import UsageError
from igcsearch.report import compression_page, write_compression_page
from igcsearch.report.layers import curve_picture, layers_picture


def layer(number: int, groups: int = 4, **more: Any) -> dict[str, Any]:
    row = {"layer": f"body.stage{number // 10}.{number}.conv", "in_channels": 64, "out_channels": 128}
    row |= {"kernel_size": [3, 1], "groups": groups, "kept": 0.4375 if groups > 1 else 1.0}
    return {**row, "macs_before": 1_234_568, "macs": 1_234_568 // groups, **more}


def record(layers: int = 3, **more: Any) -> dict[str, Any]:
    rows = [layer(number, 1 if number == 0 else 4) for number in range(layers)]
    return {
        **{"name": "small", "source": "my_net.py:net", "method": "permute", "criterion": "taylor"},
        **{"configuration": "uniform", "budget": {"macs": 76_543_210}, "data": "digits", "seed": 7},
        **{"params_before": 12_345_678, "params": 4_321_098, "macs_before": 150_000_000, "macs": 75_000_000},
        **{"kept": 0.6131, "gathers": 3, "max_rel_diff_masked_vs_converted": 2.4e-7, "input_size": [3, 64, 64]},
        **{"accuracy_before": 0.9876, "accuracy_pruned": 0.4321, "accuracy_finetuned": 0.9765},
        **{"latency_ms_before": 40.0, "latency_ms": 25.0, "curve": [], "layers": rows},
        **{"command_line": "igcsearch compress my_net.py:net --max-macs 50%", "versions": {"torch": "9.8.7"}},
        **more,
    }


CURVE = [
    {"epoch": epoch, "train_loss": 1 / epoch, "validation_accuracy": 0.5 + 0.1 * epoch, "seconds": 2.0}
    for epoch in (1, 2, 3, 4)
]


@pytest.mark.parametrize(
    "said",
    [
        "4,321,098 of 12,345,678: 2.86 times fewer",
        "12.3M →\N{NO-BREAK SPACE}4.32M",
        "75,000,000 of 150,000,000: 2.00 times fewer",
        "40 →\N{NO-BREAK SPACE}25\N{NO-BREAK SPACE}ms",
        "1.60 times faster",
        "98.76 →\N{NO-BREAK SPACE}97.65\N{NO-BREAK SPACE}%",
        "-1.11 points; 43.21 % pruned, before fine-tuning",
        "2 of 3 dense convolutions became group convolutions",
        "my_net.py:net",
        "<dd>permute</dd>",
        "<dd>taylor</dd>",
        "<dd>at most 76,543,210 multiply-adds</dd>",
        "<dd>uniform: one number of groups throughout</dd>",
        "<dt>Gathers added</dt><dd>3</dd>",
        "<dd>61.31 %</dd>",
        "<dd>2.4e-07 of the largest output</dd>",
        "<dd>3 × 64 × 64</dd>",
        "torch 9.8.7",
        "<pre>igcsearch compress my_net.py:net --max-macs 50%</pre>",
        "igcsearch.load(&quot;small&quot;)",
    ],
)
def test_a_figure_of_the_record_is_on_the_page(said: str) -> None:
    assert said in compression_page(record())


def test_what_was_not_measured_is_said() -> None:
    bare = {key: value for key, value in record().items() if not key.startswith(("accuracy", "latency"))}
    page = compression_page({**bare, "data": None})
    assert "Its accuracy was not measured: no images were given." in page
    assert "<dt>Test accuracy</dt><dd>not measured<" in page
    assert "<dt>Latency</dt><dd>not measured<" in page
    assert "None" not in page


def test_pruned_alone_is_not_called_fine_tuned() -> None:
    page = compression_page(record(accuracy_finetuned=None))
    assert "98.76 % dense, 43.21 % pruned, before fine-tuning, not fine-tuned." in page
    assert "-55.55 points; pruned, not fine-tuned" in page


def test_what_became_larger_and_slower_is_said_so() -> None:
    page = compression_page(record(latency_ms=60.0, macs=150_000_000))
    assert "1.50 times slower" in page
    assert "150,000,000 of 150,000,000: the same" in page


def test_the_table_has_a_row_a_layer_and_times_where_all_have_them() -> None:
    without = compression_page(record())
    assert without.count("<td>64 → 128</td><td>3×1</td>") == 3
    assert "<td class=n>4</td><td class=n>43.75 %</td><td class=n>1,234,568</td><td class=n>308,642</td>" in without
    assert "ms before" not in without
    rows = [layer(number, ms_before=0.5, ms=0.25 if number else 1.0) for number in range(3)]
    page = compression_page(record(layers=0) | {"layers": rows})
    assert "<td class=n>0.500</td><td class=n>0.250</td><td class=n>2.00 ×</td>" in page
    assert '<td class=n>1.000</td><td class=n><span class="slower">0.50 ×</span></td>' in page
    assert "1.5 ms before and 1.5 ms now" in page
    assert "ms before" not in compression_page(record() | {"layers": [*rows, layer(3)]})


@pytest.mark.parametrize("layers", [1, 20, 120])
def test_the_picture_has_every_layer_inside_it(layers: int) -> None:
    rows = record(layers)["layers"]
    svg = ElementTree.fromstring(layers_picture(rows))
    drawn = [group for group in svg if group.tag == "g"]
    titles = [group.findtext("title") for group in drawn]
    assert [str(title).partition(":")[0] for title in titles] == [row["layer"] for row in rows]
    lasts = [float(rect.get("x", 0)) + float(rect.get("width", 0)) for rect in svg.iter("rect")]
    assert max(lasts) <= float(svg.get("width", 0))
    assert all(float(rect.get("height", -1)) >= 0 for rect in svg.iter("rect"))
    # bars are as high as their figures: before and now of one layer as its MACs
    heights = {str(rect.get("class")): float(rect.get("height", 0)) for rect in drawn[-1].iter("rect")}
    assert heights["now"] / heights["was"] == pytest.approx(rows[-1]["macs"] / rows[-1]["macs_before"], abs=0.01)
    assert float(drawn[-1].findall("rect")[0].get("width", 0)) >= 15, "wide enough to read"


def test_layers_of_one_part_stand_over_its_name() -> None:
    svg = ElementTree.fromstring(layers_picture(record(30)["layers"]))
    texts = [element.text for element in svg.iter("text")]
    assert [texts.count(f"stage{stage}") for stage in range(3)] == [1, 1, 1]
    assert "29.conv" in texts, "what all names begin with is left out, and the part's name"


def test_the_curve_and_its_table() -> None:
    page = compression_page(record(curve=CURVE))
    assert "4 epochs in 8.0 s" in page
    assert "at the end 90.00 %" in page
    assert "<td class=n>2</td><td class=n>0.5000</td><td class=n>70.00 %</td><td class=n>2.0 s</td>" in page
    svg = ElementTree.fromstring(curve_picture(CURVE))
    heights = [float(dot.get("cy", 0)) for dot in svg.iter("circle")]
    assert heights == sorted(heights, reverse=True), "better is higher"
    assert len(heights) == 4
    assert "Fine-tuning</h2>" not in compression_page(record())
    assert curve_picture(CURVE[:1]) == ""


def test_curves_that_do_not_move_are_drawn() -> None:
    for value in (0.0, 0.5, 1.0):
        flat = [{"epoch": epoch, "validation_accuracy": value} for epoch in (1, 2)]
        svg = ElementTree.fromstring(curve_picture(flat))
        places = [float(dot.get("cy", -1)) for dot in svg.iter("circle")]
        assert places[0] == places[1]
        assert 0 <= places[0] <= 230


def test_page_is_self_contained() -> None:
    page = compression_page(record(curve=CURVE))
    assert "<script" not in page
    assert "http" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "prefers-color-scheme:dark" in page


def test_names_are_text() -> None:
    evil = '<img src=x onerror="a()">&'
    names = ("name", "source", "method", "criterion", "configuration", "data", "command_line")
    rows = [layer(0) | {"layer": evil}, layer(1) | {"layer": f"{evil}.b"}, layer(2) | {"layer": f"{evil}.c"}]
    page = compression_page(record(layers=0, versions={evil: evil}, **dict.fromkeys(names, evil)) | {"layers": rows})
    assert "<img" not in page
    assert page.count("&lt;img src=x") > len(names)


def test_written_whole_or_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = write_compression_page(tmp_path, record())
    assert path == tmp_path / "index.html"
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
    with pytest.raises(UsageError, match="cannot be written"):
        write_compression_page(tmp_path / "nowhere", record())
