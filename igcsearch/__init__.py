"""igcsearch: from images and a budget to a trained, importable network of the IGC family.

The public names live in their own modules and are imported at first use, so that `import igcsearch` and the command
line's help stay fast: neither torch nor a search library is loaded before it is needed. `_HOME` is the one table of
names at run time; the imports under TYPE_CHECKING say the same to type checkers and editors (a test compares the two).
"""

from typing import TYPE_CHECKING

from igcsearch.lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from igcsearch import conditions
    from igcsearch.entries import create_model, list_models, load
    from igcsearch.publish.export import export
    from igcsearch.search import open_study
    from igcsearch.spec import Architecture, Block, Budget, Factor, Problem
    from igcsearch.training import DataSpec, Recipe, evaluate, train
else:
    _HOME = {
        "conditions": "igcsearch",
        "create_model": "igcsearch.entries",
        "list_models": "igcsearch.entries",
        "load": "igcsearch.entries",
        "export": "igcsearch.publish.export",
        "open_study": "igcsearch.search",
        "Architecture": "igcsearch.spec",
        "Block": "igcsearch.spec",
        "Budget": "igcsearch.spec",
        "Factor": "igcsearch.spec",
        "Problem": "igcsearch.spec",
        "DataSpec": "igcsearch.training",
        "Recipe": "igcsearch.training",
        "evaluate": "igcsearch.training",
        "train": "igcsearch.training",
    }
    __getattr__ = lazy(__name__, _HOME)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Architecture",
    "Block",
    "Budget",
    "DataSpec",
    "Factor",
    "Problem",
    "Recipe",
    "__version__",
    "conditions",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load",
    "open_study",
    "train",
]
