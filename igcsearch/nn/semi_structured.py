"""1x1 convolutions by torch's semi-structured (2:4) tensors on GPUs, for inference. Floor 3.

Tensor cores from compute capability 8.0 on multiply by a weight of which at most two of every four values side by side are not zero
at up to twice the rate of a dense one. torch has that for matrix products alone, `torch.sparse.to_sparse_semi_structured`, so
what can use it are 1x1 convolutions without groups: products of pixels (N * H * W, C_in) and a weight (C_out, C_in). The zeros
decide, not the name: 2:4, 1:2, 1:4, 2:8 along the input channels have them, 2:4 along the output channels has not.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.sparse import SparseSemiStructuredTensor

from ..errors import UsageError
from .graph_inference import StockUnit
from .inference import StockFactor
from .layers import ACTIVATIONS
from .sparse import SparseConv2d, kernel

DTYPES = (torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)


class Replaced(NamedTuple):
    """What became of a network's convolutions, by the names of their modules.

    Attributes:
        replaced: those that run by semi-structured tensors now.
        left: why each of the others does not.
    """

    replaced: tuple[str, ...]
    left: dict[str, str]


class Pointwise(nn.Module):
    """A 1x1 convolution as one linear layer over all pixels. (N, C_in, H, W) to (N, C_out, H', W'), channels last.

    For inference alone. `.to`, `.half` and state dicts pass the weight by: torch cannot convert packed ones.

    Args:
        weight: (C_out, C_in), dense or semi-structured.
        bias: (C_out,) or None.
        stride: rows, columns.
    """

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.weight, self.stride = weight, stride
        self.register_buffer("bias", bias)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The convolution; fastest on maps in channels-last format, of which the pixels are a view."""
        rows, columns = self.stride
        pixels_NHWC = x_NCHW[:, :, ::rows, ::columns].permute(0, 2, 3, 1)
        y_PC = F.linear(pixels_NHWC.reshape(-1, x_NCHW.shape[1]), self.weight, self.bias)
        return y_PC.view(*pixels_NHWC.shape[:3], -1).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """What stands in the text of the module."""
        out_channels, in_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, stride={self.stride}, bias={self.bias is not None}"


class PointwiseFactor(nn.Module):
    """What a `StockFactor` does, its convolution by a `Pointwise` layer."""

    def __init__(self, stock: StockFactor, layer: Pointwise) -> None:
        super().__init__()
        self.layer, self.activation, self.shuffle = layer, stock.factor.activation, stock.shuffle

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        return cast(Tensor, self.shuffle(ACTIVATIONS[self.activation](self.layer(x_NCHW))))


@torch.no_grad()
def use_semi_structured(network: nn.Module) -> Replaced:
    """Run what can run by semi-structured tensors in that way; everything else stays. Changes the network, for inference alone.

    Considered are `SparseConv2d` layers, and the convolutions that an optimized network (`optimize_for_inference`) runs stock. The
    last step, behind `.half()` and `.cuda()`: from then on the network can be copied, but not moved, saved or trained. torch warns
    that its semi-structured tensors are a prototype.

    Args:
        network: in eval mode, float16 or bfloat16, on a CUDA device; elsewhere nothing is replaced, and `left` says so.

    Raises:
        UsageError: a network in training mode.
    """
    if network.training:
        raise UsageError(
            "the network is in training mode; semi-structured weights are for inference alone, call eval() first"
        )
    found: dict[nn.Module, nn.Module] = {}  # several nodes of a graph may share one
    replaced, left = [], {}
    for path, owner in list(network.named_modules()):
        for name, child in owner._modules.items():
            layer = _convolution(owner, child)
            if child is None or layer is None:
                continue
            if child not in found:
                full, weight = f"{path}.{name}".lstrip("."), _weight(layer)
                reason = why_not(layer, weight.device, weight.dtype)
                if reason is None:
                    made = _packed(layer)
                    found[child] = PointwiseFactor(child, made) if isinstance(child, StockFactor) else made
                    replaced.append(full)
                else:
                    found[child], left[full] = child, reason
            owner._modules[name] = found[child]
    return Replaced(tuple(replaced), left)


def why_not(layer: nn.Conv2d | SparseConv2d, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a convolution cannot run by semi-structured tensors of that type there; None where it can."""
    return _why_not_there(device, dtype) or _why_not_it(layer, dtype)


def _why_not_there(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"it is on {device.type}; semi-structured tensors need a CUDA device"
    if dtype not in DTYPES:
        return f"its weights are {dtype}; semi-structured ones are {' or '.join(map(str, DTYPES))}"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; 8.0 or above is needed"
    if _backend().BACKEND == "cusparselt":
        return None if torch.backends.cusparselt.is_available() else "this torch was built without cuSPARSELt"
    if capability[0] != 8:
        return f"torch's CUTLASS kernels need compute capability 8.x, the GPU has {capability[0]}.{capability[1]}"
    return None


def _why_not_it(layer: nn.Conv2d | SparseConv2d, dtype: torch.dtype) -> str | None:
    if layer.groups > 1:
        return f"it has {layer.groups} groups"
    if tuple(layer.kernel_size) != (1, 1):
        return f"its kernel is {layer.kernel_size[0]} x {layer.kernel_size[1]}, not 1 x 1"
    if not isinstance(layer.padding, str) and any(layer.padding):
        return f"it pads by {layer.padding}"
    of = _backend()._DTYPE_SHAPE_CONSTRAINTS[dtype]
    if layer.out_channels % of.sparse_min_rows or layer.in_channels % of.sparse_min_cols:
        return (
            f"it has {layer.out_channels} output and {layer.in_channels} input channels; multiples of {of.sparse_min_rows} and "
            f"{of.sparse_min_cols} are needed"
        )
    fullest = int((_matrix(layer).unflatten(1, (-1, 4)) != 0).sum(dim=2).max())
    if fullest > 2:
        return f"{fullest} of 4 weights side by side along its input channels are not zero; 2 may be"
    return None


def _backend() -> type[SparseSemiStructuredTensor]:
    """The class that `to_sparse_semi_structured` packs into."""
    forced = SparseSemiStructuredTensor._FORCE_CUTLASS
    return (
        torch.sparse.SparseSemiStructuredTensorCUTLASS if forced else torch.sparse.SparseSemiStructuredTensorCUSPARSELT
    )


def _convolution(owner: nn.Module, child: nn.Module | None) -> nn.Conv2d | SparseConv2d | None:
    """The convolution that a module within another one is, if it is to be considered."""
    if isinstance(child, SparseConv2d) or (isinstance(owner, StockUnit) and isinstance(child, nn.Conv2d)):
        return child
    if not isinstance(child, StockFactor):
        return None
    it = child.factor
    padding = it.dilation * (it.kernel_size // 2)
    sizes = (it.in_channels, it.out_channels, it.kernel_size, it.stride, padding, it.dilation, it.groups)
    made = nn.Conv2d(*sizes, device="meta")
    made.weight = nn.Parameter(cast(Tensor, child.weight), requires_grad=False)
    made.bias = None if child.bias is None else nn.Parameter(cast(Tensor, child.bias), requires_grad=False)
    return made


def _packed(layer: nn.Conv2d | SparseConv2d) -> Pointwise:
    bias = None if layer.bias is None else layer.bias.detach()
    rows, columns = layer.stride
    made = Pointwise(torch.sparse.to_sparse_semi_structured(_matrix(layer)), bias, (rows, columns)).eval()
    made._modules = layer._modules  # of a graph, where another node's path goes on from here
    return made


def _matrix(layer: nn.Conv2d | SparseConv2d) -> Tensor:
    """(C_out, C_in), contiguous."""
    return kernel(layer).detach().flatten(1).contiguous()


def _weight(layer: nn.Conv2d | SparseConv2d) -> Tensor:
    return layer.values if isinstance(layer, SparseConv2d) else layer.weight
