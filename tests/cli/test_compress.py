"""The command compress: a module of the user's to an entry, in one process, on digits; and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import igcsearch as package
from igcsearch.cli.output import command_line

Run = Callable[..., Any]


def test_compress_makes_an_entry(source: Path, tmp_path: Path, igcsearch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "small"
    done = igcsearch(
        "compress", f"{source}:net", "--data", "digits", "--max-macs", "50%", "--epochs", "1", "--out", out, "--json"
    )
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["macs"] <= found["macs_before"] // 2
    assert found["macs"] >= 0.4 * found["macs_before"]
    assert 0 < found["kept"] < 1
    assert found["gathers"] == 0
    assert found["max_rel_diff_masked_vs_converted"] < 1e-5
    assert {"params", "params_before", "accuracy_before", "accuracy_pruned", "latency_ms", "latency_ms_before"} <= set(
        found
    )
    assert found["accuracy_finetuned"] > found["accuracy_pruned"]
    network = package.load(out)
    assert sum(p.numel() for p in network.parameters()) == found["params"]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    again = json.loads(igcsearch("evaluate", out, "--data", "digits", "--device", "cpu", "--json").out)
    assert again["accuracy"] == pytest.approx(found["accuracy_finetuned"], abs=1e-9)
    profile = json.loads(igcsearch("profile", out, "--json").out)
    assert (profile["params"], profile["macs"], profile["macs_fvcore"]) == (
        found["params"],
        found["macs"],
        found["macs"],
    )
    assert not list(tmp_path.glob("*.partial"))
    assert json.loads((out / "compression.json").read_text()) == {k: v for k, v in found.items() if k != "path"}
    assert [row["epoch"] for row in found["curve"]] == [1]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"igcsearch compress {source.name}:net --data digits --max-macs 50% --epochs 1 --out small --json" in page
    assert str(tmp_path) not in page + (out / "compression.json").read_text()
    monkeypatch.setenv("IGCSEARCH_ZOO", str(tmp_path))
    assert [row["name"] for row in json.loads(igcsearch("list", "small", "--json").out)] == ["small"]
    refused = igcsearch("check", out)
    assert refused.status == 2
    assert "graph of operations" in refused.err


def test_compress_in_steps_goes_on_where_it_was(
    source: Path, tmp_path: Path, igcsearch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    arguments = [
        "compress",
        f"{source}:net",
        "--data",
        "digits",
        "--max-macs",
        "40%",
        "--max-latency",
        "1s",
        "--steps",
        "2",
    ]
    arguments += ["--epochs", "3", "--out", out, "--json"]
    import igcsearch.publish.compressed as module

    monkeypatch.setattr(module, "fine_tune", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert igcsearch(*arguments).status != 0  # as if interrupted in the last fine-tuning
    assert list((tmp_path / "small.partial").glob("step-2-*.safetensors"))
    monkeypatch.undo()
    import igcsearch.publish.methods as methods

    monkeypatch.setattr(methods, "permute", lambda *_, **__: pytest.fail("pruned again"))
    done = igcsearch(*arguments)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    first, last = found["steps"]
    assert found["macs_before"] > first["macs"] > last["macs"] == found["macs"]
    assert first["macs"] <= int((found["macs_before"] ** 0.5) * (0.4 * found["macs_before"]) ** 0.5) + 1
    assert first["epochs"] == 1
    assert [row["epoch"] for row in found["curve"]] == [1, 2]
    assert found["budget"]["latency_ms"] == 1000
    assert all(row["ms"] > 0 and row["ms_before"] > 0 for row in found["layers"])


def test_weights_in_float64_become_an_entry(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    call = ("compress", f"{source}:double", "--data", "digits", "--max-macs", "50%", "--epochs", "0", "--json")
    done = igcsearch(*call, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert json.loads(done.out)["max_rel_diff_masked_vs_converted"] < 1e-10
    assert {tensor.dtype for tensor in package.load(tmp_path / "out").parameters()} == {torch.float32}


def test_a_device_that_is_not_there_is_said_before_the_work(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    call = ("compress", f"{source}:net", "--data", "digits", "--max-macs", "50%", "--device", "tpu")
    refused = igcsearch(*call, "--out", tmp_path / "out")
    assert refused.status == 2
    assert "unknown device 'tpu'" in refused.err
    assert "can be given groups" not in refused.err


def test_another_normalisation_is_other_data(source: Path) -> None:
    """So neither a checkpoint nor a kept step of another --mean is gone on from."""
    from igcsearch.compress.source import normalised, read_source
    from igcsearch.training import DataSpec, load_data

    images, given = load_data(DataSpec("digits")), read_source(f"{source}:net", image_size=8, in_channels=1)
    assert normalised(images, given).fingerprint == images.fingerprint
    other = normalised(images, given, (0.9,))
    assert other.fingerprint != images.fingerprint
    assert other.test.mean == other.mean == (0.9,)


def test_threads_are_set_before_torch_is_there() -> None:
    code = (
        "import sys; from igcsearch.cli import compress, main;"
        "compress.thread_settings = lambda threads: sys.exit(7 if 'torch' in sys.modules else 9);"
        "sys.argv = ['igcsearch', 'compress', 'net.py:net', '--max-macs', '50%', '--epochs', '0']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


def test_more_steps_than_epochs_are_refused(source: Path, igcsearch: Run) -> None:
    refused = igcsearch(
        "compress", f"{source}:net", "--data", "digits", "--max-macs", "40%", "--steps", "3", "--epochs", "2"
    )
    assert refused.status == 2
    assert "every step needs an epoch" in refused.err


def test_weights_of_a_file_under_other_names(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    namespace: dict[str, object] = {}
    exec(source.read_text(), namespace)
    state = namespace["net"]().state_dict()  # type: ignore[operator]
    save_file(
        {f"body.{key}".replace("body.head", "fc"): value for key, value in state.items()}, tmp_path / "w.safetensors"
    )
    call = ("compress", f"{source}:net", "--max-params", "60%", "--epochs", "0", "--image-size", "8")
    # without --data images of 3 channels are taken, which this network does not read
    assert "does not run on images" in igcsearch(*call, "--out", tmp_path / "a").err
    data = (*call[:-2], "--data", "digits", "--weights", tmp_path / "w.safetensors")
    refused = igcsearch(*data, "--out", tmp_path / "b")
    assert refused.status == 2
    assert "do not fit" in refused.err
    assert "--map" in refused.err
    done = igcsearch(*data, "--map", "body.=", "--map", "fc=head", "--out", tmp_path / "c", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["accuracy_finetuned"] is None


def test_gathers(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    call = ("compress", f"{source}:net", "--data", "digits", "--max-macs", "50%", "--epochs", "0", "--json")
    done = igcsearch(*call, "--gathers", "1", "--out", tmp_path / "a")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["gathers"] == 1
    assert "kept with gathers: 0: " in done.err
    assert [number for number, _ in found["tradeoff"]][:2] == [0, 1]
    assert found["kept"] == pytest.approx(dict(found["tradeoff"])[1])
    every = json.loads(igcsearch(*call, "--gathers", "all", "--out", tmp_path / "b").out)
    assert every["kept"] >= found["kept"]
    assert every["gathers"] >= found["gathers"]


def test_sensitivity(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    call = ("compress", f"{source}:net", "--data", "digits", "--max-macs", "50%", "--epochs", "0", "--json")
    done = igcsearch(*call, "--importance", "sensitivity", "--out", tmp_path / "a")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["macs"] <= found["macs_before"] // 2
    provenance = json.loads((tmp_path / "a" / "metrics.json").read_text())["provenance"]
    assert provenance["importance"] == "sensitivity"


def test_sensitivity_needs_images(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    call = ("compress", f"{source}:net", "--max-macs", "50%", "--epochs", "0", "--importance", "sensitivity")
    refused = igcsearch(*call, "--out", tmp_path / "out")
    assert refused.status == 2
    assert "--importance sensitivity cannot be without images: give --data" in refused.err


def test_weights_that_two_layers_share(source: Path, tmp_path: Path, igcsearch: Run) -> None:
    """Counted once, left dense, and read from a file that holds them once."""
    namespace: dict[str, Any] = {}
    exec(source.read_text(), namespace)
    network = namespace["tied"]()
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("layers.2.")}
    save_file(state, tmp_path / "w.safetensors")
    call = ("compress", f"{source}:tied", "--data", "digits", "--max-macs", "90%", "--epochs", "0", "--json")
    done = igcsearch(*call, "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "left dense, as their weights are those of another layer or call: layers.2" in done.err
    found = json.loads(done.out)
    assert found["params_before"] == sum(parameter.numel() for parameter in network.parameters())
    assert not {"layers.1.conv2", "layers.2"} & {row["layer"] for row in found["layers"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{source}:net"], "no budget"),
        (["{source}:net", "--max-macs", "0%"], "no share"),
        (["{source}:net", "--max-macs", "1%"], "the smallest has"),
        (["{source}:net", "--max-macs", "50%", "--method", "permut"], "did you mean 'permute'"),
        (["{source}:net", "--max-macs", "50%", "--criterion", "l3"], "unknown criterion 'l3'"),
        (["{source}:net", "--max-macs", "50%", "--importance", "sensitivty"], "did you mean 'sensitivity'"),
        (
            ["{source}:net", "--max-macs", "50%", "--gathers", "some"],
            "'some': give a whole number of at least 0, or all",
        ),
        (["{source}:net", "--max-macs", "50%", "--gathers", "-1"], "'-1': give a whole number of at least 0, or all"),
        (["{source}:net", "--max-macs", "0.000001%"], "the smallest has"),
        (["{source}:net", "--max-macs", "50%", "--map", "a=b"], "give --weights FILE, or no --map"),
        (["{source}:point", "--max-macs", "50%"], "no convolution that can be given groups"),
        (["{source}:net", "--max-macs", "50%", "--only", "stm"], "no dense convolution matches 'stm'"),
        (["{source}:nett", "--max-macs", "50%"], "did you mean 'net'"),
        (["{source}:branching", "--max-macs", "50%"], "torch.fx cannot trace"),
        (["{source}:broken", "--max-macs", "50%"], "values that are not finite"),
        (["torchvision:resnet19", "--max-macs", "50%"], "torchvision has no model 'resnet19'"),
        (["weights.pth", "--max-macs", "50%"], "is a pickle"),
        (["{source}:net", "--weights", "w.pt", "--max-macs", "50%"], "is a pickle"),
        (["{source}:net", "--weights", "none.safetensors", "--max-macs", "50%"], "there is no such file"),
        (["{source}:net", "--max-macs", "50%", "--mean", "0.5,0.5"], "1 number with commas"),
        (["{source}:net", "--max-macs", "50%", "--map", "a"], "OLD=NEW"),
        (["igcv3_d_100", "--max-macs", "50%"], "has no weights to compress"),
    ],
)
def test_compress_refuses(arguments: list[str], said: str, source: Path, tmp_path: Path, igcsearch: Run) -> None:
    given = [argument.format(source=source) for argument in arguments]
    refused = igcsearch("compress", *given, "--data", "digits", "--epochs", "0", "--out", tmp_path / "out")
    assert (refused.status, refused.out) == (2, "")
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert not (tmp_path / "out").exists()


def test_a_recorded_command_names_no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["compress", "/home/me/my net.py:f", "--out=/home/me/small", "--only", "layer3.*", "--max-macs", "50%"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/igcsearch", *arguments])
    assert command_line() == "igcsearch compress 'my net.py:f' --out=small --only 'layer3.*' --max-macs 50%"
