"""Residual network of 18 layers for small pictures: a 3 × 3 stem, no pooling before the blocks.

K. He et al., "Deep residual learning for image recognition", 2016, arXiv:1512.03385; the stem as in T. Chen et al.
2020, arXiv:2002.05709, appendix B.9. GroupNorm in the place of BatchNorm: no row looks at another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.networks import norm

BLOCKS = (2, 2, 2, 2)


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions, added to the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """``(B, C, H, W)`` → ``(B, 8 · width)``, averaged over places."""

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False), norm(width), nn.ReLU()]
        inputs = width
        for stage, blocks in enumerate(BLOCKS):
            outputs = width * 2**stage
            for block in range(blocks):
                layers.append(BasicBlock(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
        self.trunk = nn.Sequential(*layers)
        self.outputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.trunk(x).mean((2, 3))
        return out
