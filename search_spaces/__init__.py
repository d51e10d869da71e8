"""Floor 2: search spaces, functions `space(trial, problem)` that return an Architecture; one a file. See README.md here.

digits.py, cifar.py, mobile.py are layouts that staged.py turns into proposals, igcv2_figure3.py is a grid, regroup.py is made of a
given network; choices.py holds the budget-aware choices that spaces are made of, forms.py how a block can be made at given widths,
space.py finds a space by name.
"""

from .space import REGROUP, SPACES, Space, get_space

__all__ = ["REGROUP", "SPACES", "Space", "get_space"]
