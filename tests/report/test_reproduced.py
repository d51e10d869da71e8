"""The published tables rebuilt: every count three ways, the document in step with the code, tables found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from igcsearch.blocks.references import REFERENCES
from igcsearch.errors import UsageError
from igcsearch.report import reproduced as made

DOCUMENT = Path(__file__).parents[2] / "docs" / "reproduced.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, made.Reproduced]:
    return {row.reference.name: row for row in made.reproduced(made.rows_of())}


def test_every_network_is_counted_alike_in_closed_form_as_built_and_by_fvcore(rows: dict[str, made.Reproduced]) -> None:
    assert list(rows) == list(REFERENCES)
    for name, row in rows.items():
        cost = REFERENCES[name].architecture.cost
        assert (name, row.built, row.fvcore) == (name, cost.params, cost.macs)


def test_the_document_is_what_the_command_prints(rows: dict[str, made.Reproduced]) -> None:
    assert DOCUMENT.read_text() == made.markdown(list(rows.values()))


def test_json_keys_of_the_contract(rows: dict[str, made.Reproduced]) -> None:
    keys = ["table", "name", "published_params", "params", "published_macs", "macs", "macs_fvcore", "note"]
    for row in rows.values():
        data = row.to_dict()
        assert list(data)[: len(keys)] == keys
        assert data["note"]
    block = rows["igcv2_fig3_l3"].to_dict()
    assert (block["published_block"], block["block"], block["block_agree"]) == (4698, 4698, "exact")


@pytest.mark.parametrize(
    ("published", "ours", "unit", "said"),
    [
        (None, 5, 1, "-"),
        (640_234, 640_234, 1, "exact"),
        (650_000, 647_722, 10_000, "rounds to it"),
        (650_000, 644_999, 10_000, "-0.77 %"),
        (650_000, 760_042, 10_000, "+17 %"),
        (300, 301, 1, "+0.33 %"),
    ],
)
def test_agreement(published: int | None, ours: int, unit: int, said: str) -> None:
    assert made.agreement(published, ours, unit) == said


def test_a_difference_has_its_reason(rows: dict[str, made.Reproduced]) -> None:
    for row in rows.values():
        data = row.to_dict()
        if data["params_agree"].endswith("%") or data["macs_agree"].endswith("%"):
            assert any(word in row.reference.note for word in ("ours", "published", "count", "readings"))


def test_tables_by_name_and_pattern() -> None:
    assert {reference.table for reference in made.rows_of("igcv2*")} == {
        "igcv2-figure3",
        "igcv2-table7",
        "igcv2-imagenet",
    }
    assert [reference.name for reference in made.rows_of("igcv3-cifar")] == ["igcv3_d_cifar10", "igcv3_d_cifar100"]
    assert made.rows_of() == list(REFERENCES.values())
    with pytest.raises(UsageError, match=r"unknown table 'igcv2-figur'.*did you mean 'igcv2-figure3'"):
        made.rows_of("igcv2-figur")
    with pytest.raises(UsageError, match=r"'igcv3_d_100' is a network of table 'igcv3-imagenet'"):
        made.rows_of("igcv3_d_100")


def test_a_difference_is_not_hidden() -> None:
    reference = REFERENCES["igcv3_d_100"]
    row = made.Reproduced(reference, built=reference.architecture.params + 1, fvcore=7)
    text = made.markdown([row])
    assert "3,491,688 (3,491,689 built)" in text
    assert "| 7 |" in text
    assert made.summary([row]) == "1 network; parameters: 1 exact; multiply-adds: 1 not"
