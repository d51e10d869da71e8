"""ResNet-20 for CIFAR-10 as a plain module (He et al. 2016, arXiv 1512.03385, section 4.2), with shortcuts of option A: every
second pixel, zeros for the channels that are new. A source for `igcsearch compress benchmarks/resnet20.py:resnet20`.

The package's own reference of that name has projections where the shape changes (option B).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)  # of the stages, at 1, 1/2 and 1/4 of the image's size
BLOCKS = 3  # a stage


class Block(nn.Module):
    """Two 3x3 convolutions with norms, and the shortcut; (N, in, H, W) to (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity() if stride == 1 else Shortcut(out_channels - in_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class Shortcut(nn.Module):
    """Option A: every `stride`-th pixel, half of the new channels' zeros before the old ones and half behind."""

    def __init__(self, new: int, stride: int) -> None:
        super().__init__()
        self.before, self.behind, self.stride = new // 2, new - new // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + new, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))


class ResNet20(nn.Module):
    """Images (N, 3, 32, 32) to logits (N, 10); 269,722 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], 1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2)
        self.linear = nn.Linear(WIDTHS[2], 10)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet20() -> ResNet20:
    """With random weights."""
    return ResNet20()


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    rest = [Block(out_channels, out_channels, 1) for _ in range(BLOCKS - 1)]
    return nn.Sequential(Block(in_channels, out_channels, stride), *rest)
