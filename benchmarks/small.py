"""A small network of 3x3 convolutions, 32 to 128 channels wide, which is cheap to train.

As a source: `igcsearch compress benchmarks/small.py:gray --weights FILE` (one channel, ten classes).
"""

from __future__ import annotations

from torch import nn


def small_network(in_channels: int, classes: int) -> nn.Module:
    """3x3 convolutions with batch norm: 32, 64, 64, 128, 128 channels, every other one halving the map; 0.28 million parameters."""
    layers: list[nn.Module] = []
    for number, width in enumerate((32, 64, 64, 128, 128)):
        stride = 2 if number % 2 == 0 else 1
        layers += [nn.Conv2d(in_channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        in_channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, classes))


def gray() -> nn.Module:
    """For gray images of ten classes."""
    return small_network(1, 10)
