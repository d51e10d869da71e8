"""Exported files compute what the network computes, for the batch that was asked for, and say what they are; else there is none.

Files are run as a user would run them, and compared with the network in its default execution, which is not the exported one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import igcsearch
from igcsearch.blocks import igcv1, igcv2, igcv3, network, stage
from igcsearch.entries import Entry, list_entries, write_entry
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.publish.export import DYNAMIC, FORMATS, Exported, ExportError, export
from igcsearch.spec import Block, Factor, Parallel, Pool, Problem, Shuffle, Stage, StagedArchitecture

SHIPPED = [entry.name for entry in list_entries() if entry.zoo == "package"]
BOTH = ("onnx", "torch-export")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """`made(name, format)`: the shipped network of that name, exported once for any batch."""
    folder, done = tmp_path_factory.mktemp("exported"), {}

    def make(name: str, format: str) -> Exported:
        if (name, format) not in done:
            done[name, format] = export(name, folder / (name + FORMATS[format].suffix), format=format)
        return done[name, format]

    return make


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    """A network of every kind of step, shuffle and activation, 3 channels, an odd side, no accuracy; it has seen images."""
    order = tuple(reversed(range(12)))
    strange = Block(
        (
            Factor(12, 12, 3, groups=3, dilation=2, activation="gelu", shuffle=Shuffle("explicit", order=order)),
            Parallel(((), (Factor(4, 4, groups=2, activation="silu"),)), 12, split=(8, 4), shuffle=Shuffle()),
            Parallel(((Factor(12, 12, groups=4),), (Factor(12, 12, bias=True),)), 12, join="add"),
            Pool(12, "avg", 2, 2),
            Factor(12, 12, groups=3, norm=True, shuffle=Shuffle("random", seed=3)),
        ),
        shortcut=(Pool(12, "max", 2, 2),),
        activation="hardswish",
    )
    stages = [
        stage(igcv2, 12, 12, 1, branch_widths=(3, 4), residual=True),
        stage(igcv1, 12, 12, 1, primary_groups=3),
        Stage((strange,)),
        stage(igcv3, 12, 16, 1, stride=2),
    ]
    architecture = network(Problem(image_size=9, in_channels=3, num_classes=5), 12, stages, head_width=20, dropout=0.2)
    net = build(architecture, seed=1)
    net(torch.randn(16, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    return write_entry(tmp_path / "every-step", architecture, net.state_dict(), {})


def run(exported: Exported, images: torch.Tensor) -> torch.Tensor:
    """The file's logits, by the library that its format is for."""
    if exported.format == "torch-export":
        return torch.export.load(exported.path).module()(images).detach()
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def metadata_of(exported: Exported) -> dict[str, Any]:
    """What a reader finds in the file: in ONNX texts, in which all but text is JSON."""
    if exported.format == "torch-export":
        files = {"igcsearch.json": ""}
        torch.export.load(exported.path, extra_files=files)
        return dict(json.loads(files["igcsearch.json"]))
    import onnx

    found = {prop.key: prop.value for prop in onnx.load(exported.path).metadata_props}
    texts = ("name", "architecture", "batch", "accuracy_split", "data", "licence", "family", "weights_sha256")
    return {key: value if key in texts else json.loads(value) for key, value in found.items()}


def assert_same_logits(exported: Exported, entry: Path, batch: int) -> None:
    net = igcsearch.load(entry)
    images = torch.rand(batch, *net.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        torch.testing.assert_close(run(exported, images), net(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", BOTH)
def test_sparse_convolutions_leave_as_dense_ones(format: str, tmp_path: Path) -> None:
    steps = (Factor(8, 8, 3, norm=True, sparsity=(2, 4)), Factor(8, 8, groups=2, sparsity=(1, 2), sparse_axis="out"))
    stem = Block((Factor(3, 8, 3, norm=True, activation="relu"),))
    network = build(StagedArchitecture(3, 8, 5, stem, (Stage((Block(steps),)),)), seed=0).eval()
    exported = export(network, tmp_path / ("sparse" + FORMATS[format].suffix), format=format)
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(run(exported, images), network(images), rtol=1e-4, atol=1e-4)
    assert b"codes" not in exported.path.read_bytes()


@pytest.mark.parametrize("format", BOTH)
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_for_any_batch(name: str, format: str, made: Callable[[str, str], Exported]) -> None:
    exported = made(name, format)
    assert exported.difference <= 1e-4
    assert exported.size == exported.path.stat().st_size
    (entry,) = list_entries(name)
    for batch in (1, 5):
        assert_same_logits(exported, entry.path, batch)


@pytest.mark.parametrize("format", BOTH)
def test_metadata_is_read_back(format: str, made: Callable[[str, str], Exported]) -> None:
    exported = made(SHIPPED[0], format)
    (entry,) = list_entries(SHIPPED[0])
    found = metadata_of(exported)
    assert found == exported.metadata
    assert found["name"] == entry.name
    for key in ("input_size", "mean", "std", "class_names", "accuracy", "licence"):
        assert found[key] == entry.metrics[key], key
    assert (found["in_channels"], found["batch"]) == (entry.architecture.in_channels, DYNAMIC)
    assert {"igcsearch", "torch", *FORMATS[format].packages} == set(found["versions"])


# Rule: what is given away does not tell where it was made.
@pytest.mark.parametrize("format", BOTH)
def test_files_name_no_folder_of_this_machine(format: str, made: Callable[[str, str], Exported]) -> None:
    content = made(SHIPPED[0], format).path.read_bytes()
    for module in (igcsearch, torch):
        assert module.__file__ is not None
        assert str(Path(module.__file__).parent).encode() not in content


@pytest.mark.parametrize(("format", "batch"), [("onnx", DYNAMIC), ("torch-export", DYNAMIC), ("torch-export", 3)])
def test_every_step(format: str, batch: int | str, entry: Entry, tmp_path: Path) -> None:
    exported = export(entry, tmp_path / "file", format=format, batch=batch)
    for size in (1, 5) if batch == DYNAMIC else (3,):
        assert_same_logits(exported, entry.path, size)
    assert {"accuracy", "mean", "class_names"}.isdisjoint(metadata_of(exported))


# Rule: a network in Python is exported with the weights that it has, and is left as it is.
@pytest.mark.parametrize("format", BOTH)
def test_a_network_in_python(format: str, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = igcsearch.create_model(entry.path, pretrained=True, num_classes=7)
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    exported = export(net, format=format)
    assert exported.path.name == f"network-{net.architecture.hash}{FORMATS[format].suffix}"
    assert (net.training, net.stem.execution) == (True, "auto")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    images = torch.rand(4, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(run(exported, images), net.eval()(images), rtol=1e-4, atol=1e-4)
    found = metadata_of(exported)
    assert (found["num_classes"], found["input_size"]) == (7, [3, 9, 9])
    assert {"weights_sha256", "accuracy", "class_names"}.isdisjoint(found)


# Rule: what feeds a published network is known of its object too; nothing is claimed of the weights that it has by now.
def test_a_published_network_in_python_knows_how_to_be_fed(tmp_path: Path) -> None:
    (published,) = list_entries(SHIPPED[0])
    found = export(
        igcsearch.create_model(SHIPPED[0], pretrained=True), tmp_path / "a.pt2", format="torch-export"
    ).metadata
    for key in ("mean", "std", "class_names", "licence"):
        assert list(found[key]) == list(published.metrics[key]), key
    assert {"weights_sha256", "accuracy"}.isdisjoint(found)


@pytest.mark.parametrize("format", BOTH)
def test_a_network_without_a_classifier(format: str, entry: Entry, tmp_path: Path) -> None:
    net = igcsearch.create_model(entry.path, pretrained=True, num_classes=0)
    exported = export(net, tmp_path / ("features" + FORMATS[format].suffix), format=format)
    images = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(run(exported, images), net(images), rtol=1e-4, atol=1e-4)
    assert metadata_of(exported)["num_classes"] == 0
    if format == "onnx":
        import onnxruntime

        (features,) = onnxruntime.InferenceSession(exported.path).get_outputs()
        assert (features.name, features.shape[1]) == ("features", 20)


def test_other_modules_are_refused(entry: Entry, tmp_path: Path) -> None:
    net = igcsearch.load(entry.path)
    for module in (torch.nn.Sequential(net), net.optimize_for_inference(measure=False), None):
        with pytest.raises(UsageError, match=f"a {type(module).__name__} cannot be exported; give a Network"):
            export(module, tmp_path / "new.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.onnx"))


def test_fixed_batch_in_onnx(entry: Entry, tmp_path: Path) -> None:
    import onnxruntime

    exported = export(entry.path, tmp_path / "one.onnx", batch=1)
    (images,) = onnxruntime.InferenceSession(exported.path).get_inputs()
    assert images.shape == [1, 3, 9, 9]
    assert exported.metadata["batch"] == 1
    assert_same_logits(exported, entry.path, 1)


# Rule: a file that would answer otherwise is never there, and one that was there stays.
@pytest.mark.parametrize("answer", [0.0, float("nan")])
def test_a_wrong_file_is_not_written(
    answer: float, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(FORMATS["torch-export"], run=lambda _: lambda images: torch.full((len(images), 5), answer))
    monkeypatch.setitem(FORMATS, "torch-export", wrong)
    target = tmp_path / "out" / "old.pt2"
    target.parent.mkdir()
    target.write_text("old")
    for path in (target, target.with_name("new.pt2")):
        with pytest.raises(ExportError, match="differs from the network"):
            export(entry, path, format="torch-export", overwrite=True)
    assert [path.name for path in target.parent.iterdir()] == ["old.pt2"]
    assert target.read_text() == "old"


def test_a_file_that_does_not_run_is_not_written(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = replace(FORMATS["torch-export"], run=lambda _: lambda images: images.view(2, -1))
    monkeypatch.setitem(FORMATS, "torch-export", fixed)
    with pytest.raises(ExportError, match="does not run on a batch of 1"):
        export(entry, tmp_path / "new.pt2", format="torch-export")
    assert not list(tmp_path.glob("*.pt2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onyx"}, r"unknown format 'onyx' \(did you mean 'onnx'\?\); known: onnx, torch-export"),
        ({"batch": 0}, "batch 0: give 'dynamic' or a whole number from 1"),
        ({"batch": "many"}, "batch 'many'"),
        ({"batch": True}, "batch True"),
        ({"path": "new.pt2"}, "ends as files of format torch-export do, the format is onnx"),
        ({"path": "."}, "is a folder"),
        ({"path": "nowhere/new.onnx"}, "there is no folder 'nowhere'"),
        ({"path": "there.onnx"}, "exists already.*--overwrite"),
    ],
    ids=str,
)
def test_refuses_before_it_works(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("igcsearch.entries.load", None)
    (tmp_path / "there.onnx").write_text("mine")
    with pytest.raises(UsageError, match=message):
        export(SHIPPED[0], **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"onnx needs onnxruntime, not installed: pip install 'igcsearch\[export\]'"):
        export(SHIPPED[0], tmp_path / "new.onnx")
    assert export(SHIPPED[0], tmp_path / "new.pt2", format="torch-export").difference <= 1e-4
