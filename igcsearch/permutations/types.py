"""The arrays of this package."""

import numpy as np
from numpy.typing import NDArray

Criterion = NDArray[np.float64]  # (R, C), not negative
Gains = NDArray[np.float64]  # (N, G): what a channel adds if it stands in a group
Groups = NDArray[np.int64]  # (N,): the group of each channel, each group as often
