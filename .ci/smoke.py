"""Run by .ci/run in an environment that holds the installed wheel alone: published networks load and run, fused by the
library that the wheel brings along, and doing so imports none of the search's libraries."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
os.environ["IGCSEARCH_CXX"] = ""  # from here on nothing may be compiled, and no cache holds what was compiled before
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

import igcsearch  # noqa: E402

assert "torch" not in sys.modules, "import igcsearch must not import torch"
assert Path(igcsearch.__file__).is_relative_to(sys.prefix), f"not the installed package: {igcsearch.__file__}"

names = igcsearch.list_models(pretrained=True)
if not names:
    sys.exit("the wheel holds no published network: results/ needs at least one entry")
print(f"{len(names)} networks: {', '.join(names)}")

networks = {name: igcsearch.create_model(name, pretrained=True) for name in names}

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402


class Seen(TorchDispatchMode):
    """The operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


ways: dict[str, str] = {}
for name, network in networks.items():
    architecture = network.architecture
    images_NCHW = torch.rand(2, architecture.in_channels, architecture.image_size, architecture.image_size)
    with torch.no_grad(), Seen() as seen:
        logits = network.eval()(images_NCHW)
    assert logits.shape == (2, architecture.num_classes), logits.shape
    assert torch.isfinite(logits).all()
    with torch.no_grad():
        torch.testing.assert_close(network.set_execution("plain")(images_NCHW), logits, rtol=1e-3, atol=1e-3)
    ways[name] = "fused" if any("igcsearch.product" in operator for operator in seen.names) else "by plain PyTorch"
    print(f"{name}: {architecture.params} parameters, output {tuple(logits.shape)}, {ways[name]}")

from igcsearch.nn.fused.library import kernels  # noqa: E402

library = kernels()
if library is not None:
    assert Path(library._name).is_relative_to(sys.prefix), f"not the wheel's library: {library._name}"
    assert "fused" in ways.values(), "no published network ran fused"
    print("fused kernels: the wheel's own")
elif compiler:
    sys.exit("there is a compiler, but the wheel holds no compiled kernels, or none that can be loaded")
else:
    print("fused kernels: none, as there is no compiler")

heavy = [name for name in ("optuna", "ray", "pandas", "fvcore") if name in sys.modules]
assert not heavy, f"loading a network imported {heavy}"
print("no search library imported")
