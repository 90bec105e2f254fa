"""FID's Inception V3 in torch, with the keys of pytorch-fid: a twin to compare with.

Its features and its resize were compared once with those of torch-fidelity 0.4.0.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, size=1, stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def mean(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class A(nn.Module):
    def __init__(self, inputs: int, pool: int):
        super().__init__()
        self.branch1x1 = Unit(inputs, 64)
        self.branch5x5_1, self.branch5x5_2 = Unit(inputs, 48), Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(inputs, 64)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(inputs, pool)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(mean(x))], 1)


class B(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch3x3 = Unit(288, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(288, 64), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        wide, tall = {"size": (1, 7), "padding": (0, 3)}, {"size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Unit(768, 192)
        self.branch7x7_1, self.branch7x7_2 = Unit(768, width), Unit(width, width, **wide)
        self.branch7x7_3 = Unit(width, 192, **tall)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Unit(768, width), Unit(width, width, **tall)
        self.branch7x7dbl_3 = Unit(width, width, **wide)
        self.branch7x7dbl_4 = Unit(width, width, **tall)
        self.branch7x7dbl_5 = Unit(width, 192, **wide)
        self.branch_pool = Unit(768, 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = x
        for place in range(1, 6):
            double = getattr(self, f"branch7x7dbl_{place}")(double)
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(mean(x))], 1)


class D(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(768, 192), Unit(192, 320, 3, 2)
        self.branch7x7x3_1 = Unit(768, 192)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Unit(192, 192, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = x
        for place in range(1, 5):
            seven = getattr(self, f"branch7x7x3_{place}")(seven)
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    def __init__(self, inputs: int, *, pools_by_maximum: bool):
        super().__init__()
        wide, tall = {"size": (1, 3), "padding": (0, 1)}, {"size": (3, 1), "padding": (1, 0)}
        self.branch1x1 = Unit(inputs, 320)
        self.branch3x3_1 = Unit(inputs, 384)
        self.branch3x3_2a, self.branch3x3_2b = Unit(384, 384, **wide), Unit(384, 384, **tall)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(inputs, 448), Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Unit(384, 384, **wide), Unit(384, 384, **tall)
        self.branch_pool = Unit(inputs, 192)
        self.pools_by_maximum = pools_by_maximum

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.pools_by_maximum else mean(x)
        branches = (
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        )
        return torch.cat(branches, 1)


class TorchInception(nn.Module):
    """Features of `n 3 h w` in [-1, 1], of any size."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Unit(3, 32, 3, 2), Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Unit(64, 80), Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a, self.Mixed_6b, self.Mixed_6c = B(), C(128), C(160)
        self.Mixed_6d, self.Mixed_6e, self.Mixed_7a = C(160), C(192), D()
        self.Mixed_7b = E(1280, pools_by_maximum=False)
        self.Mixed_7c = E(2048, pools_by_maximum=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return x.mean((2, 3))


def torch_resize_tf1(x: torch.Tensor, side: int) -> torch.Tensor:
    """TensorFlow 1's bilinear resize of `n c h w`."""
    for axis in (3, 2):
        n = x.shape[axis]
        place = torch.arange(side, dtype=torch.float32) * torch.tensor(n / side)
        before = place.long()
        share = (place - before).reshape(-1, *[1] * (3 - axis))
        low = x.index_select(axis, before)
        x = low + (x.index_select(axis, (before + 1).clamp_max(n - 1)) - low) * share
    return x
