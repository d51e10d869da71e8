"""Fused execution of linear products of pointwise factors: one read and one write of the activation. Floor 3.

operators.py: the torch operators with autograd; library.py, kernels.cpp, kernels.h: the kernels for CPUs; gpu.py: those for GPUs;
reference.py: the same product by stock operators, for every other dtype and device, and as an oracle.
"""

from .operators import fused_available, product, wiring

__all__ = ["fused_available", "product", "wiring"]
