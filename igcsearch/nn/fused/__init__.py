"""Fused execution of linear products of pointwise factors: one read and one write of the activation. Floor 3.

trainable.py: a product as a torch operator with autograd; folded.py: a whole block at inference; shared.py: what both need, and
what a product is; sparse.py, sparse_layout.py: a sparse convolution by its kept weights; library.py, kernels.cpp and the headers:
the kernels for CPUs; gpu.py: those for GPUs; reference.py: a product by stock operators, for every other dtype and device, and as
an oracle. With this package all operators are registered.
"""

from . import folded, sparse
from .shared import fused_available, wiring
from .trainable import product

__all__ = ["folded", "fused_available", "product", "sparse", "wiring"]
