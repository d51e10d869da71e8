"""The rules of the house: what an import may load, the links between folders, what the wheel holds, pinned packages,
and that the contract about floors reaches the linked folders."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import igcsearch
from igcsearch.nn.fused import library

LINKED = ("blocks", "search_spaces", "results")
BIN = Path(sys.executable).parent
COMPILER = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
LIBRARY = "igcsearch/nn/fused/_kernels.so"


def run(*command: str | Path, cwd: Path, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, input=input, capture_output=True, text=True)


def loaded_by(statement: str, cwd: Path) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = run(sys.executable, "-c", code, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


# Rule: an import loads only what its floor may use. Checked in a fresh process, which also sees indirect imports.
@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import igcsearch", {"torch", "ray", "optuna", "numpy", "pandas"}),
        ("import igcsearch.cli", {"torch", "ray", "optuna", "numpy", "pandas"}),
        ("import igcsearch.spec, igcsearch.blocks", {"torch", "ray", "optuna", "pandas", "fvcore"}),
        ("import igcsearch.search_spaces", {"torch", "ray", "optuna", "pandas", "fvcore"}),
        ("from igcsearch import list_models; list_models()", {"ray", "optuna", "pandas", "fvcore"}),
        ("from igcsearch import create_model, load", {"ray", "optuna", "pandas", "fvcore"}),
        ("from igcsearch import train, evaluate, Recipe, DataSpec", {"ray", "optuna", "fvcore"}),
    ],
)
def test_imports_are_lazy(statement: str, absent: set[str], tmp_path: Path) -> None:
    assert not loaded_by(statement, tmp_path) & absent


# Rule: type checkers and the run time see the same public names, each from the same module.
def test_one_table_of_names() -> None:
    tree = ast.parse(Path(igcsearch.__file__).read_text())
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module for node in branch.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == igcsearch._HOME
    assert {*typed, "__version__"} == set(igcsearch.__all__)
    assert set(typed) <= set(dir(igcsearch))


def test_public_names_resolve() -> None:
    for name in igcsearch.__all__:
        assert getattr(igcsearch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        igcsearch.creat_model  # noqa: B018


# Rule: the linked folders are links in git too (a copy would go stale, a file with the link's text would not import).
def test_links_are_links(root: Path) -> None:
    for name in LINKED:
        assert os.readlink(root / "igcsearch" / name) == f"../{name}"
    listed = run("git", "ls-files", "--stage", *(f"igcsearch/{name}" for name in LINKED), cwd=root)
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("not a git checkout")
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.stdout.splitlines()}
    assert modes == {f"igcsearch/{name}": "120000" for name in LINKED}


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, links kept, so that builds and changes leave the checkout alone."""
    target = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "studies", "_kernels*")
    for name in ("igcsearch", *LINKED):
        shutil.copytree(root / name, target / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(root / name, target)
    return target


def build_wheel(copy: Path, folder: Path) -> Path:
    """The wheel of the copy, built in a fresh process by what the environment holds."""
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(folder)!r}))"
    done = run(sys.executable, "-c", build, cwd=copy)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


# Rule: the wheel holds the linked folders as igcsearch.*, as files, with the published networks, and the compiled
# kernels with their sources; and nothing else.
def test_wheel(copy: Path, tmp_path: Path) -> None:
    (copy / "results" / "an-entry").mkdir()
    (copy / "results" / "an-entry" / "architecture.json").write_text("{}")
    (copy / "results" / "studies" / "a-study").mkdir(parents=True)
    (copy / "results" / "studies" / "a-study" / "architecture.json").write_text("{}")
    wheel = build_wheel(copy, tmp_path)
    assert wheel.name.startswith(f"igcsearch-{igcsearch.__version__}-py3-none-")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"igcsearch"}
    sources = {f"igcsearch/{path.relative_to(copy / 'igcsearch')}" for path in (copy / "igcsearch").glob("**/*.py")}
    for name in LINKED:
        sources |= {f"igcsearch/{path.relative_to(copy)}" for path in (copy / name).glob("**/*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {"igcsearch/blocks/__init__.py", "igcsearch/results/an-entry/architecture.json"} <= names
    assert "igcsearch/py.typed" in names
    assert not [name for name in names if "studies" in name or "tests" in name]
    fused = {name for name in names if name.startswith("igcsearch/nn/fused/") and not name.endswith(".py")}
    kernels = {f"igcsearch/nn/fused/{path.name}" for path in library.sources()}
    if not COMPILER:
        assert fused == kernels
        return
    assert fused == {*kernels, LIBRARY}
    assert not wheel.name.endswith("-any.whl")
    library._load(tmp_path / "installed" / LIBRARY, library.source_hash())  # of these sources, and it runs here


# Rule: without a compiler the wheel is made all the same, for any platform, also where an earlier build lies.
def test_wheel_without_a_compiler(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.COMPILER, "")
    wheel = build_wheel(copy, tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = [archive.read(name).decode() for name in names if name.endswith("/WHEEL")]
    assert LIBRARY not in names
    assert "igcsearch/nn/fused/kernels.cpp" in names
    assert "Root-Is-Purelib: true" in about


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name.group()).lower()


# Rule: constraints.txt is names and versions only, pins every direct dependency, and uv itself.
def test_constraints(root: Path) -> None:
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line)] == []
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    direct = {canonical(line) for line in (*project["dependencies"], *project["optional-dependencies"]["dev"], "uv")}
    assert direct - {line.partition("==")[0] for line in lines} == set()


# Rule: the contract about floors follows the links: what is forbidden in blocks/ is found there.
@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("blocks/planted.py", "import torch\n", "spec, blocks, spaces"),
        ("search_spaces/planted.py", "def space():\n    import optuna\n", "spec, blocks, spaces"),
        ("blocks/planted.py", "import igcsearch.nn\n", "floors"),
        ("igcsearch/nn/planted.py", "from igcsearch.blocks import igcv2\n", "nn knows no block family"),
        ("igcsearch/entries/planted.py", "import pandas\n", "entries and nn run without"),
        ("igcsearch/training/planted.py", "from igcsearch import search_spaces\n", "know no space"),
        ("igcsearch/publish/planted.py", "import optuna\n", "only search and report"),
        ("igcsearch/planted.py", "", "floors"),  # a new part must be given its floor
    ],
)
def test_floors_bite(copy: Path, module: str, line: str, broken: str) -> None:
    planted = copy / module
    planted.write_text(line)
    try:
        done = run(BIN / "lint-imports", "--no-cache", cwd=copy)
    finally:
        planted.unlink()
    assert done.returncode == 1, done.stdout
    verdicts = re.findall(r"^(.*) BROKEN", done.stdout, re.MULTILINE)
    assert any(broken in verdict for verdict in verdicts), done.stdout


def test_floors_hold(copy: Path) -> None:
    done = run(BIN / "lint-imports", "--no-cache", cwd=copy)
    assert done.returncode == 0, done.stdout


# Rule: `from blocks import` would load a second copy of igcsearch.blocks that the floors do not see; ruff refuses it.
@pytest.mark.parametrize("name", LINKED)
def test_bare_names_are_banned(root: Path, name: str) -> None:
    command = (BIN / "ruff", "check", "--stdin-filename", "tests/planted.py", "-")
    done = run(*command, cwd=root, input=f"from {name} import something\n\nsomething()\n")
    assert "TID251" in done.stdout


# The same rule inside the linked folders, where ruff cannot tell a relative import from a bare one.
@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_import_no_bare_names(root: Path, name: str) -> None:
    for path in (root / name).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [node.module or ""]
            else:
                imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [module for module in imported if module.partition(".")[0] in LINKED], path
