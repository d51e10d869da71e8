"""The benchmark of N:M sparsity: what schemes keep, by the fact sheet's table."""

from collections.abc import Callable
from types import ModuleType

import pytest

# groups, 1:M, 2:M, 4:M, unstructured
SHEET = {
    ("abs-normal", 2): (0.500, 0.707, 0.744, 0.768, 0.796),
    ("abs-normal", 4): (0.250, 0.459, 0.484, 0.499, 0.516),
    ("abs-normal", 8): (0.125, 0.279, 0.292, 0.300, 0.308),
    ("abs-normal", 16): (0.0625, 0.163, 0.169, 0.173, 0.177),
    ("3x3 kernel norms", 2): (0.500, 0.567, 0.579, 0.587, 0.595),
    ("3x3 kernel norms", 8): (0.125, 0.169, 0.173, 0.174, 0.177),
    ("lognormal", 2): (0.500, 0.761, 0.798, 0.819, 0.842),
    ("lognormal", 8): (0.125, 0.387, 0.412, 0.426, 0.442),
}


def test_kept_magnitude_is_that_of_the_sheet(load: Callable[[str], ModuleType]) -> None:
    found = {(row["matrix"], round(1 / row["density"])): row for row in load("nm").kept_rows(orders=False)}
    for key, expected in SHEET.items():
        row = found[key]
        figures = [row[name] for name in ("groups", "1:M", "2:M", "4:M", "unstructured")]
        assert figures == pytest.approx(expected, abs=0.005)
