"""LFDM's auto-encoder in torch, with the keys of its checkpoints, written from the description."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def grid_of(h: int, w: int, like: torch.Tensor) -> torch.Tensor:
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (h, w))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y], -1).to(like)


def sampled(image: torch.Tensor, grid: torch.Tensor, mode: str = "zeros") -> torch.Tensor:
    return F.grid_sample(image, grid, padding_mode=mode, align_corners=False)


def resized(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class AntiAlias(nn.Module):
    def __init__(self, channels: int, scale: float):
        super().__init__()
        sigma = (1 / scale - 1) / 2
        size = 2 * round(sigma * 4) + 1
        at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        line = torch.exp(-(at**2) / (2 * sigma**2))
        kernel = line[:, None] * line[None]
        kernel = (kernel / kernel.sum()).float()
        self.register_buffer("weight", kernel.expand(channels, 1, size, size).clone())
        self.every = int(1 / scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2, groups=x.shape[1])
        return y[:, :, :: self.every, :: self.every]


class Same(nn.Module):
    def __init__(self, i: int, o: int, k: int = 3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(i, o, k, padding=k // 2), nn.BatchNorm2d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class Down(Same):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(super().forward(x), 2)


class Up(Same):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.interpolate(x, scale_factor=2))


class Res(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(c, c, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class Encoder(nn.Module):
    def __init__(self, i: int, e: int, most: int, n: int):
        super().__init__()
        widths = [i, *(min(most, e * 2 ** (k + 1)) for k in range(n))]
        self.down_blocks = nn.ModuleList([Down(widths[k], widths[k + 1]) for k in range(n)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = [x]
        for block in self.down_blocks:
            maps.append(block(maps[-1]))
        return maps


class Decoder(nn.Module):
    def __init__(self, e: int, most: int, n: int):
        super().__init__()
        self.up_blocks = nn.ModuleList(
            [
                Up((1 if k == n - 1 else 2) * min(most, e * 2 ** (k + 1)), min(most, e * 2**k))
                for k in range(n)[::-1]
            ]
        )

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        x = maps.pop()
        for block in self.up_blocks:
            x = torch.cat([block(x), maps.pop()], 1)
        return x


class TorchHourglass(nn.Module):
    def __init__(self, i: int, e: int, most: int, n: int):
        super().__init__()
        self.encoder, self.decoder = Encoder(i, e, most, n), Decoder(e, most, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


class TorchRegions(nn.Module):
    def __init__(self, e: int, most: int, n: int, k: int, pad: int, scale: float):
        super().__init__()
        self.predictor = TorchHourglass(3, e, most, n)
        self.regions = nn.Conv2d(e + 3, k, 7, padding=pad)
        self.down = AntiAlias(3, scale)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        p = self.regions(self.predictor(self.down(x)))
        heat = F.softmax(p.flatten(2) / 0.1, 2).reshape(p.shape)
        grid = grid_of(*p.shape[2:], p)
        shift = (heat[..., None] * grid).sum((2, 3))
        away = grid - shift[:, :, None, None]
        covar = (heat[..., None, None] * away[..., None] * away[..., None, :]).sum((2, 3))
        u, s, _ = torch.linalg.svd(covar)
        return {"shift": shift, "covar": covar, "affine": u @ torch.diag_embed(s.sqrt())}


class TorchBackground(nn.Module):
    def __init__(self, e: int, most: int, n: int):
        super().__init__()
        self.encoder = Encoder(6, e, most, n)
        self.fc = nn.Linear(min(most, e * 2**n), 6)

    def forward(self, source: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        features = self.encoder(torch.cat([source, driving], 1))[-1].mean((2, 3))
        top = self.fc(features).reshape(-1, 2, 3)
        last = torch.tensor([0.0, 0, 1]).to(top).expand(len(top), 1, 3)
        return torch.cat([top, last], 1)


class TorchFlow(nn.Module):
    def __init__(self, e: int, most: int, n: int, k: int, scale: float):
        super().__init__()
        inputs = 4 * (k + 1)
        self.hourglass = TorchHourglass(inputs, e, most, n)
        self.mask = nn.Conv2d(e + inputs, k + 1, 7, padding=3)
        self.occlusion = nn.Conv2d(e + inputs, 1, 7, padding=3)
        self.down = AntiAlias(3, scale)

    def forward(self, source, s, d, background) -> tuple[torch.Tensor, torch.Tensor]:
        small = self.down(source)
        b, _, h, w = small.shape
        grid = grid_of(h, w, small)

        def heat(region) -> torch.Tensor:
            away = grid[None, None] - region["shift"][:, :, None, None]
            inverse = torch.inverse(region["covar"])[:, :, None, None]
            square = (away[..., None, :] @ inverse @ away[..., None])[..., 0, 0]
            return torch.exp(-0.5 * square)

        heats = heat(d) - heat(s)
        heats = torch.cat([torch.zeros_like(heats[:, :1]), heats], 1)
        m = s["affine"] @ torch.inverse(d["affine"])
        m = m * torch.sign(m[..., :1, :1])
        away = (grid[None, None] - d["shift"][:, :, None, None])[..., None]
        moved = (m[:, :, None, None] @ away)[..., 0] + s["shift"][:, :, None, None]
        ones = torch.cat([grid, torch.ones_like(grid[..., :1])], -1)[None, ..., None]
        behind = (background[:, None, None] @ ones)[..., 0]
        motions = torch.cat([(behind[..., :2] / behind[..., 2:])[:, None], moved], 1)
        k = motions.shape[1]
        many = small[:, None].expand(b, k, 3, h, w).reshape(b * k, 3, h, w)
        warped = sampled(many, motions.reshape(b * k, h, w, 2)).reshape(b, k, 3, h, w)
        inputs = torch.cat([heats[:, :, None], warped], 2).reshape(b, 4 * k, h, w)
        features = self.hourglass(inputs)
        mask = F.softmax(self.mask(features), 1)
        flow = (mask[..., None] * motions).sum(1)
        return flow, torch.sigmoid(self.occlusion(features))


class TorchGenerator(nn.Module):
    def __init__(self, e: int, most: int, downs: int, residuals: int, flow: TorchFlow):
        super().__init__()
        widths = [min(most, e * 2**k) for k in range(downs + 1)]
        self.first = Same(3, e, 7)
        self.down_blocks = nn.ModuleList([Down(widths[k], widths[k + 1]) for k in range(downs)])
        self.bottleneck = nn.Sequential()
        for k in range(residuals):
            self.bottleneck.add_module(f"r{k}", Res(widths[-1]))
        self.up_blocks = nn.ModuleList([Up(widths[k + 1], widths[k]) for k in range(downs)[::-1]])
        self.final = nn.Conv2d(e, 3, 7, padding=3)
        self.pixelwise_flow_predictor = flow

    def feature(self, source: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.first(source)]
        for block in self.down_blocks:
            maps.append(block(maps[-1]))
        return maps

    def forward(self, source, flow, occlusion) -> tuple[torch.Tensor, torch.Tensor]:
        def warp(x: torch.Tensor) -> torch.Tensor:
            at = resized(flow.permute(0, 3, 1, 2), x).permute(0, 2, 3, 1)
            return sampled(x, at)

        maps = self.feature(source)
        x = warp(maps[-1]) * resized(occlusion, maps[-1])
        x = self.bottleneck(x)
        for block in self.up_blocks:
            skip = maps.pop()
            o = resized(occlusion, skip)
            x = block(warp(skip) * o + x * (1 - o))
        skip = maps.pop()
        o = resized(occlusion, skip)
        x = torch.sigmoid(self.final(warp(skip) * o + x * (1 - o)))
        o = resized(occlusion, source)
        return warp(source) * o + x * (1 - o), warp(source)


class TorchLatentFlow(nn.Module):
    """The three networks of a checkpoint, for a `LatentFlowConfig`."""

    def __init__(self, config):
        super().__init__()

        def sizes(net) -> tuple[int, int, int]:
            return net.width, net.max_width, net.blocks

        scale, k = 1 / config.flow_factor, config.regions
        pad = 3 if config.padded_regions else 0
        self.region_predictor = TorchRegions(*sizes(config.region_net), k, pad, scale)
        self.bg_predictor = TorchBackground(*sizes(config.background_net))
        flow = TorchFlow(*sizes(config.flow_net), k, scale)
        self.generator = TorchGenerator(
            config.width, config.max_width, config.downs, config.residuals, flow
        )

    def flow(self, source: torch.Tensor, driving: torch.Tensor):
        s, d = self.region_predictor(source), self.region_predictor(driving)
        background = self.bg_predictor(source, driving)
        return self.generator.pixelwise_flow_predictor(source, s, d, background)

    def forward(self, source: torch.Tensor, driving: torch.Tensor):
        flow, occlusion = self.flow(source, driving)
        return flow, occlusion, *self.generator(source, flow, occlusion)


def first(x: np.ndarray) -> torch.Tensor:
    """Channels-last arrays as torch has images."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(CHANNELS_FIRST)))


def last(x: torch.Tensor) -> np.ndarray:
    """Images of torch with their channels last."""
    return x.detach().permute(CHANNELS_LAST).numpy()


def weights_alone(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state without counters and fixed kernels."""
    return {k: x for k, x in state.items() if "num_batches" not in k and "down.weight" not in k}
