"""Sizes and times as people type them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.cli.sizes import parse_duration, parse_milliseconds, parse_size
from igcsearch.errors import UsageError
from igcsearch.wording import accuracy, clock, percent, plural, short

UNITS = {"": 1, "k": 10**3, "K": 10**3, "m": 10**6, "M": 10**6, "G": 10**9}


@given(st.integers(1, 10**9), st.sampled_from(sorted(UNITS)))
def test_whole_numbers_with_any_unit(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * UNITS[unit]
    assert parse_size(f" {number:_} {unit}") == number * UNITS[unit]


@given(st.decimals("0.001", 9999, places=3), st.sampled_from(["k", "M"]))
def test_fractions_are_exact(number: Decimal, unit: str) -> None:
    # Three places and a factor of at least 1000 always make a whole number; floats would be off by one at times.
    assert parse_size(f"{number}{unit}") == int(number * UNITS[unit])


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_milliseconds):
        message = ""
        try:
            assert parse(text) > 0
        except UsageError as error:
            message = str(error)
        assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "-5", "-20k", "0", "0k", "0.0M", "1.5", "1.2345k", "20 000", "20,000", "1e6", "20kk"]
)
@pytest.mark.parametrize("more", ["", "x"])
def test_sizes_that_are_refused_say_value_and_cure(text: str, more: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text + more, "--max-params")
    assert "--max-params" in str(caught.value)
    assert repr(text + more) in str(caught.value)
    assert "20k or 1.5M" in str(caught.value)


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_times_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("1H30M", 5400)])
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.decimals("0.001", 9999, places=3))
def test_a_latency_is_in_milliseconds_unless_it_says_seconds(number: Decimal) -> None:
    assert parse_milliseconds(f"{number}") == parse_milliseconds(f"{number}ms") == float(number)
    assert parse_milliseconds(f"{number} s") == float(number * 1000)


@pytest.mark.parametrize("text", ["", "0", "-5", "0ms", "5us", "5m", "fast", "5 ms ms", "nan", "inf"])
def test_latencies_that_are_refused_say_value_and_cure(text: str) -> None:
    with pytest.raises(UsageError, match=r"5ms or 0\.5s") as caught:
        parse_milliseconds(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0", "0s", "-1h", "1m1h", "5m5m", "h", "ten", "1 h", "1w"])
def test_times_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="90s, 15m, 1h"):
        parse_duration(text, "--timeout")


def test_numbers_for_people() -> None:
    assert [short(n) for n in (0, 999, 1000, 11_498, 19_930, 999_999, 1_520_000, None)] == [
        *("0", "999", "1k", "11.5k", "19.9k", "1M", "1.52M", "-")
    ]
    assert [clock(s) for s in (-1, 0.44, 42, 185, 4800, 100_000)] == [
        *("0.0 s", "0.4 s", "42 s", "3 min 05 s", "1 h 20 min", "1 d 3 h")
    ]
    assert percent(0.98765) == "98.77 %"
    assert [clock(s) for s in (9.94, 9.96, 59.6, 3599.7)] == ["9.9 s", "10 s", "1 min 00 s", "1 h 00 min"]
    assert percent(None) == "-"
    assert percent(0.985, 0.001) == "98.50 ± 0.10 %"
    assert accuracy(0.985, 0.001, 3) == "98.50 ± 0.10 % (3 seeds)"
    assert accuracy(0.985, None, 1) == accuracy(0.985, 0.0, 1) == "98.50 % (1 seed)"
    assert accuracy(None, None, 0) == "not measured"
    assert [plural(n, "image") for n in (0, 1, 1000)] == ["0 images", "1 image", "1,000 images"]
