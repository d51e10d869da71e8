"""Floor 5: from an architecture and images to trained weights, on the CPU, one GPU or several, with the same numbers every time.

The way through it: `DataSpec` -> `load_data` -> `ImageData`; `Recipe`; `train(architecture, data, recipe)` ->
`TrainResult`; `evaluate`. Several processes train one network together, each with its `Group`; `launch.launch` starts them.
Names are imported when first used, so that `DataSpec` and `Recipe` (plain data) cost no import of torch.
"""

from typing import TYPE_CHECKING

from igcsearch.lazy import lazy

if TYPE_CHECKING:
    from igcsearch.training.checkpoint import CheckpointError
    from igcsearch.training.datasets.images import ImageData, Split
    from igcsearch.training.datasets.load import load_data
    from igcsearch.training.datasets.spec import DATA_NAMES, DataSpec
    from igcsearch.training.device import resolve_device
    from igcsearch.training.distributed import Group
    from igcsearch.training.evaluation import evaluate
    from igcsearch.training.loop import Epoch, TrainResult, time_step, train
    from igcsearch.training.recipe import Recipe, default_recipe, steps_per_epoch
    from igcsearch.training.step import TrainingDiverged
else:
    __getattr__ = lazy(
        __name__,
        {
            "CheckpointError": ".checkpoint",
            "DATA_NAMES": ".datasets.spec",
            "DataSpec": ".datasets.spec",
            "Epoch": ".loop",
            "Group": ".distributed",
            "ImageData": ".datasets.images",
            "Recipe": ".recipe",
            "Split": ".datasets.images",
            "TrainResult": ".loop",
            "TrainingDiverged": ".step",
            "default_recipe": ".recipe",
            "evaluate": ".evaluation",
            "load_data": ".datasets.load",
            "resolve_device": ".device",
            "steps_per_epoch": ".recipe",
            "time_step": ".loop",
            "train": ".loop",
        },
    )

__all__ = [
    "DATA_NAMES",
    "CheckpointError",
    "DataSpec",
    "Epoch",
    "Group",
    "ImageData",
    "Recipe",
    "Split",
    "TrainResult",
    "TrainingDiverged",
    "default_recipe",
    "evaluate",
    "load_data",
    "resolve_device",
    "steps_per_epoch",
    "time_step",
    "train",
]
