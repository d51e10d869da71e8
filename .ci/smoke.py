"""Run by .ci/run in an environment that holds the installed wheel alone: a published network loads and runs, and doing
so imports none of the search's libraries."""

import sys
from pathlib import Path

import igcsearch

assert "torch" not in sys.modules, "import igcsearch must not import torch"
assert Path(igcsearch.__file__).is_relative_to(sys.prefix), f"not the installed package: {igcsearch.__file__}"

names = igcsearch.list_models()
if not names:
    sys.exit("the wheel holds no published network: results/ needs at least one entry")
print(f"{len(names)} networks: {', '.join(names)}")

network = igcsearch.create_model(names[0], pretrained=True)

import torch  # noqa: E402

architecture = network.architecture
images_NCHW = torch.zeros(2, architecture.in_channels, architecture.image_size, architecture.image_size)
with torch.no_grad():
    logits = network.eval()(images_NCHW)
assert logits.shape == (2, architecture.num_classes), logits.shape
assert torch.isfinite(logits).all()

heavy = [name for name in ("optuna", "ray", "pandas", "fvcore") if name in sys.modules]
assert not heavy, f"loading a network imported {heavy}"
print(f"{names[0]}: {architecture.params} parameters, output {tuple(logits.shape)}, no search library imported")
