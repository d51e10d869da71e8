"""Spaces by name and from a user's file: what is wrong is said in one line that names the value and the cure."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from igcsearch.errors import UsageError
from igcsearch.search_spaces import SPACES, get_space
from igcsearch.spec import Budget, Problem

from .trials import Recorder

PROBLEM = Problem(8, 1, 10, Budget(params=20_000))
GOOD = '''
"""A space of one width."""
from igcsearch.blocks import dense, network, stage, xception
from igcsearch.search_spaces.choices import ranked

def build(problem, width):
    return network(problem, width, [stage(xception, width, width, 1, stride=2)])

def space(trial, problem):
    """Xception at one width."""
    width = ranked(trial, "width", range(8, 65, 8), lambda width: build(problem, width).cost, problem.budget)
    return build(problem, width)

def smallest(problem):
    return build(problem, 8)
'''


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def one_line(call: object, *arguments: object) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SPACES)
def test_own_spaces_are_found_and_described(name: str) -> None:
    space = get_space(name)
    assert space.name == name
    assert space.summary.endswith(".")
    assert len(space.summary) < 120


def test_unknown_name_lists_near_matches_and_all() -> None:
    message = one_line(get_space, "digit")
    assert "did you mean 'digits'" in message
    assert "mobile" in message


def test_a_users_file_is_a_space(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    space = get_space(f"{path}:space")
    assert space.summary == "Xception at one width."
    assert space.name == f"{path}:space"
    for rank in (0.0, 0.5, 1.0):
        network = space.propose(Recorder({"width": rank}), PROBLEM)
        assert PROBLEM.budget.admits(*network.cost)
    smallest = space.smallest(PROBLEM)
    assert smallest is not None
    assert smallest.cost == space.propose(Recorder({"width": 0.0}), PROBLEM).cost


def test_smallest_may_be_an_attribute_or_missing(tmp_path: Path) -> None:
    attribute = GOOD.replace(
        "def smallest(problem):\n    return build(problem, 8)", "space.smallest = lambda p: build(p, 16)"
    )
    found = get_space(f"{write(tmp_path, attribute)}:space").smallest(PROBLEM)
    assert found is not None
    assert found.stem.out_channels == 16
    missing = GOOD.partition("def smallest")[0]
    assert get_space(f"{write(tmp_path, missing, 'other.py')}:space").smallest(PROBLEM) is None


def test_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = get_space(f"{write(tmp_path / 'a', GOOD)}:space")
    other = get_space(f"{write(tmp_path / 'b', GOOD.replace('(xception', '(dense'))}:space")
    assert one.propose(Recorder(), PROBLEM).family == "xception"
    assert other.propose(Recorder(), PROBLEM).family == "dense"


def test_missing_file_and_function(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert "no file" in one_line(get_space, f"{tmp_path}/absent.py:space")
    assert "did you mean 'space'" in one_line(get_space, f"{path}:spaces")
    message = one_line(get_space, str(path))
    assert "build, space, smallest" in message
    assert "file.py:function" in message
    assert "no function at all" in one_line(get_space, f"{write(tmp_path, 'x = 1', 'empty.py')}:space")
    assert "no file" in one_line(get_space, f"{tmp_path}:space")


@pytest.mark.parametrize("arguments", ["", "trial", "trial, problem, depth", "*, trial, problem"])
def test_a_function_must_take_trial_and_problem(tmp_path: Path, arguments: str) -> None:
    path = write(tmp_path, f"def space({arguments}):\n    return None\n")
    assert "space(trial, problem)" in one_line(get_space, f"{path}:space")


def test_an_error_inside_names_file_function_line_and_exception(tmp_path: Path) -> None:
    path = write(tmp_path, "def space(trial, problem):\n    return 1 / 0\n")
    message = one_line(get_space(f"{path}:space").propose, Recorder(), PROBLEM)
    assert all(part in message for part in (str(path), "space", "ZeroDivisionError", "line 2"))
    path = write(tmp_path, "def space(trial, problem):\n    return 'net'\n")
    assert "must return an Architecture" in one_line(get_space(f"{path}:space").propose, Recorder(), PROBLEM)
    path = write(tmp_path, GOOD.replace("return build(problem, width)", "return build(Problem8(), width)"))
    assert "NameError" in one_line(get_space(f"{path}:space").propose, Recorder(), PROBLEM)


def test_a_network_for_another_problem_is_refused(tmp_path: Path) -> None:
    changed = GOOD.replace("return build(problem, width)", "return build(problem, width).with_(num_classes=7)")
    message = one_line(get_space(f"{write(tmp_path, changed)}:space").propose, Recorder(), PROBLEM)
    assert "7 classes" in message
    assert "10 classes" in message


@pytest.mark.parametrize(
    "text", ["def space(trial, problem:\n", "import nothing_of_that_name\n", "raise KeyError('x')\n"]
)
def test_a_file_that_cannot_be_run_says_why(tmp_path: Path, text: str) -> None:
    message = one_line(get_space, f"{write(tmp_path, text)}:space")
    assert "cannot be imported" in message
    assert "line 1" in message


def test_optunas_own_exceptions_pass_through(tmp_path: Path) -> None:
    import optuna

    text = "import optuna\ndef space(trial, problem):\n    raise optuna.TrialPruned()\n"
    with pytest.raises(optuna.TrialPruned):
        get_space(f"{write(tmp_path, text)}:space").propose(Recorder(), PROBLEM)


def test_no_heavy_library_is_imported() -> None:
    code = "import sys, igcsearch.search_spaces; print([m for m in ('torch', 'optuna', 'ray', 'pandas') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_examples_of_the_documentation_run(tmp_path: Path) -> None:
    """The space in the folder's README, and that in the docstring of choices.py."""
    from igcsearch.search_spaces import choices

    folder = Path(choices.__file__).resolve().parent
    readme = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    documented = textwrap.dedent((choices.__doc__ or "").partition("too:\n")[2].partition("\nAs long")[0])
    for number, text in enumerate((readme, documented)):
        space = get_space(f"{write(tmp_path, text, f'example{number}.py')}:space")
        smallest = space.smallest(PROBLEM)
        assert smallest is not None
        for seed in range(50):
            network = space.propose(Recorder(generator=random.Random(seed)), PROBLEM)
            assert smallest.params <= network.params <= 20_000
