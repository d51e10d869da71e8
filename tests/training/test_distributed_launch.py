"""The launcher: what it gives back, how often it tries again, and what it leaves behind."""

import operator
import os
import signal

import pytest

from igcsearch.errors import UsageError
from igcsearch.training.launch import launch

pytestmark = pytest.mark.timeout(120)


def test_the_first_process_answers_for_all() -> None:
    # Rule: each finds torchrun's variables; the value is that of process 0; handlers and environment are put back.
    before = signal.getsignal(signal.SIGINT), dict(os.environ)
    assert launch(os.getenv, "WORLD_SIZE", processes=2) == "2"
    assert (signal.getsignal(signal.SIGINT), dict(os.environ)) == before


@pytest.mark.parametrize(
    ("work", "arguments", "message"),
    [(os._exit, (3,), "exit code 3"), (operator.truediv, (1, 0), "ZeroDivisionError: division by zero")],
)
def test_restarts_are_bounded(work: object, arguments: tuple[int, ...], message: str) -> None:
    # Rule: a process that dies or raises is started again so many times, then said to fail, with its reason.
    said: list[str] = []
    with pytest.raises(RuntimeError, match=rf"process 0 of 1 failed \({message}\); it was restarted 1 time"):
        launch(work, *arguments, processes=1, restarts=1, on_restart=said.append)  # type: ignore[arg-type]
    assert said == [f"process 0 of 1 failed ({message}); restart 1 of 1 goes on from the last whole epoch"]


def test_what_a_user_can_mend_is_not_tried_again() -> None:
    # Rule: a UsageError comes through as itself, at once.
    from igcsearch.entries import read_entry

    said: list[str] = []
    with pytest.raises(UsageError, match="no-such-network"):
        launch(read_entry, "no-such-network", processes=2, on_restart=said.append)
    assert not said
