"""I3D in torch, with the keys of pytorch-i3d: a twin to compare with.

Its logits were compared once with those of cd-fvd's own module (cdfvd.third_party.i3d.pytorch_i3d).
"""

import torch
from torch import nn
from torch.nn import functional as F

MIXED = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def same_padding(x: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Zeros around (t, h, w), as TensorFlow's SAME has them."""
    around = []
    for n, k, s in zip(x.shape[2:], size, stride, strict=True):
        total = max(k - (n % s or s), 0)
        around = [total // 2, total - total // 2, *around]
    return F.pad(x, around)


def pool(x: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return F.max_pool3d(same_padding(x, size, stride), size, stride)


class Unit(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, size: int = 1, stride: int = 1, eps: float = 1e-3
    ):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = same_padding(x, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(x)))


class Mixed(nn.Module):
    def __init__(self, inputs: int, *widths: int, eps: float):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(inputs, b0, eps=eps)
        self.b1a, self.b1b = Unit(inputs, b1a, eps=eps), Unit(b1a, b1b, 3, eps=eps)
        self.b2a, self.b2b = Unit(inputs, b2a, eps=eps), Unit(b2a, b2b, 3, eps=eps)
        self.b3b = Unit(inputs, b3b, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)
        return torch.cat(branches, 1)


class TorchI3D(nn.Module):
    """Logits of `b c t h w`; frames of any size, whose last map is averaged whole."""

    def __init__(self, classes: int = 400, eps: float = 1e-3):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2, eps)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Unit(64, 64, eps=eps), Unit(64, 192, 3, eps=eps)
        for name, widths in MIXED.items():
            setattr(self, name, Mixed(*widths, eps=eps))
        self.logits = nn.Module()
        self.logits.conv3d = nn.Conv3d(1024, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in MIXED:
            if name == "Mixed_3b":
                x = pool(x, (1, 3, 3), (1, 2, 2))
            if name == "Mixed_4b":
                x = pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = pool(x, (2, 2, 2), (2, 2, 2))
            x = getattr(self, name)(x)
        x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
        return self.logits.conv3d(x)[..., 0, 0].mean(2)
