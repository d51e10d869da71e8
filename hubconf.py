"""torch.hub: every published network of this repository is an entry point, named as in `igcsearch.list_models(pretrained=True)`.

    torch.hub.load("owner/igcsearch", NAME, pretrained=True)

Each takes what `igcsearch.create_model` takes: pretrained, num_classes, in_chans, image_size.
"""

from functools import partial as _partial  # torch.hub lists every public callable here
from pathlib import Path as _Path

import igcsearch

dependencies = ["numpy", "platformdirs", "safetensors", "torch"]

# torch.hub unpacks an archive without symbolic links, so igcsearch/blocks and so on are then found beside igcsearch/.
if not (_Path(__file__).parent / "igcsearch" / "results").is_dir():
    igcsearch.__path__.append(str(_Path(__file__).parent))


def _entry_points() -> dict[str, object]:
    from igcsearch.entries import create_model, list_entries

    points = {}
    for entry in list_entries():
        if entry.zoo != "package":
            continue
        point = _partial(create_model, entry.name)
        point.__doc__ = (  # what torch.hub.help shows
            f"{entry.name}: {entry.architecture.family} for {entry.metrics.get('data')}, {entry.architecture.params} "
            f"parameters, test accuracy {entry.metrics.get('accuracy')}.\n\n{create_model.__doc__}"
        )
        points[entry.name] = point
    return points


globals().update(_entry_points())
