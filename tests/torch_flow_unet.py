"""LFDM's 3-D U-Net in torch, with the keys of its checkpoints, written from the description."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, c, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        var = x.var(1, unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * self.gamma


class Inner(nn.Module):
    """`fn.` in a key."""

    def __init__(self, fn: nn.Module, norm: nn.Module | None = None):
        super().__init__()
        self.fn = fn
        if norm is not None:
            self.norm = norm


class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        freqs = 1.0 / (10000 ** (torch.arange(0, 32, 2).float() / 32))
        self.register_buffer("freqs", freqs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate the pairs (2m, 2m + 1) of `b n t d`."""
        angle = torch.arange(x.shape[-2]).float()[:, None] * self.freqs[None]
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = [even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()]
        return torch.stack(turned, -1).flatten(-2)


class Frames(nn.Module):
    """Attention over frames (or, without a rotation, over pixels) of `... l c`."""

    def __init__(self, c: int, heads: int, rotary: bool):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(c, 3 * heads * 32, bias=False)
        self.to_out = nn.Linear(heads * 32, c, bias=False)
        if rotary:
            self.rotary_emb = Rotary()

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = (
            one.unflatten(-1, (self.heads, 32)).transpose(-2, -3)
            for one in self.to_qkv(x).chunk(3, -1)
        )
        q = q * 32**-0.5
        if hasattr(self, "rotary_emb"):
            q, k = self.rotary_emb(q), self.rotary_emb(k)
        scores = q @ k.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias
        return self.to_out((scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2))


class Temporal(nn.Module):
    """Attention of `b c t h w` over t, or over h w."""

    def __init__(self, c: int, heads: int, over_frames: bool = True):
        super().__init__()
        self.fn = Inner(Inner(Frames(c, heads, rotary=over_frames)), Norm(c))
        self.over_frames = over_frames

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        b, c, t, h, w = x.shape
        y, attend = self.fn.norm(x), self.fn.fn.fn
        if self.over_frames:
            y = attend(y.permute(0, 3, 4, 2, 1), bias).permute(0, 4, 3, 1, 2)
        else:
            y = attend(y.permute(0, 2, 3, 4, 1).reshape(b, t, h * w, c))
            y = y.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)
        return x + y


class Linear2d(nn.Module):
    def __init__(self, c: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(c, 3 * heads * 32, 1, bias=False)
        self.to_out = nn.Conv2d(heads * 32, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, h, w = x.shape
        q, k, v = (one.reshape(n, self.heads, 32, h * w) for one in self.to_qkv(x).chunk(3, 1))
        q, k = q.softmax(-2) * 32**-0.5, k.softmax(-1)
        context = torch.einsum("bhdn,bhen->bhde", k, v)
        out = torch.einsum("bhde,bhdn->bhen", context, q)
        return self.to_out(out.reshape(n, self.heads * 32, h, w))


class Spatial(nn.Module):
    def __init__(self, c: int, heads: int):
        super().__init__()
        self.fn = Inner(Linear2d(c, heads), Norm(c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, t, _, _ = x.shape
        y = self.fn.fn(self.fn.norm(x).transpose(1, 2).flatten(0, 1))
        return x + y.unflatten(0, (b, t)).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, i: int, o: int, groups: int):
        super().__init__()
        self.proj = nn.Conv3d(i, o, (1, 3, 3), padding=(0, 1, 1))
        self.norm = nn.GroupNorm(groups, o)

    def forward(self, x: torch.Tensor, modulation=None) -> torch.Tensor:
        x = self.norm(self.proj(x))
        if modulation is not None:
            x = x * (modulation[0] + 1) + modulation[1]
        return F.silu(x)


class TorchRes(nn.Module):
    def __init__(self, i: int, o: int, groups: int, embedding: int = 0):
        super().__init__()
        if embedding:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * o))
        self.block1, self.block2 = Block(i, o, groups), Block(o, o, groups)
        self.res_conv = nn.Conv3d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: torch.Tensor, emb: torch.Tensor | None = None) -> torch.Tensor:
        modulation = None
        if emb is not None:
            modulation = self.mlp(emb)[:, :, None, None, None].chunk(2, 1)
        return self.block2(self.block1(x, modulation)) + self.res_conv(x)


def upsampling(c: int, deconv: bool) -> nn.Module:
    if deconv:
        return nn.ConvTranspose3d(c, c, (1, 4, 4), (1, 2, 2), (0, 1, 1))
    return nn.Sequential(
        nn.Upsample(scale_factor=(1, 2, 2), mode="nearest"),
        nn.Conv3d(c, c, (1, 3, 3), padding=(0, 1, 1), padding_mode="reflect"),
    )


class Bias(nn.Module):
    def __init__(self, heads: int):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(32, heads)

    def forward(self, t: int) -> torch.Tensor:
        n = torch.arange(t)[:, None] - torch.arange(t)[None]
        bucket = (n < 0).long() * 16
        n = n.abs()
        far = 8 + (torch.log(n.float().clamp(min=1) / 8) / math.log(4) * 8).long()
        bucket = bucket + torch.where(n < 8, n, far.clamp(max=15))
        return self.relative_attention_bias(bucket).permute(2, 0, 1)


class TorchFlowUNet(nn.Module):
    """Noise in `b 3 t h w`, for a `FlowUNetConfig`."""

    def __init__(self, config):
        super().__init__()
        d, heads, g = config.width, config.heads, config.groups
        emb = 4 * d + config.condition
        deconv = config.upsampling.value == "deconvolution"
        if config.learned_null:
            self.null_cond_emb = nn.Parameter(torch.randn(1, config.condition))
        self.init_conv = nn.Conv3d(3 + config.feature, d, (1, 7, 7), padding=(0, 3, 3))
        self.init_temporal_attn = Temporal(d, heads)
        self.time_rel_pos_bias = Bias(heads)
        self.time_mlp = nn.Sequential(
            nn.Identity(), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, 4 * d)
        )
        widths = [d, *config.widths]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        n = len(config.widths)
        for k in range(n):
            i, o = widths[k], widths[k + 1]
            down = nn.Conv3d(o, o, (1, 4, 4), (1, 2, 2), (0, 1, 1))
            self.downs.append(
                nn.ModuleList(
                    [
                        TorchRes(i, o, g, emb),
                        TorchRes(o, o, g, emb),
                        Spatial(o, heads),
                        Temporal(o, heads),
                        down if k < n - 1 else nn.Identity(),
                    ]
                )
            )
        for k in range(n)[::-1]:
            i, o = widths[k], widths[k + 1]
            self.ups.append(
                nn.ModuleList(
                    [
                        TorchRes(2 * o, i, g, emb),
                        TorchRes(i, i, g, emb),
                        Spatial(i, heads),
                        Temporal(i, heads),
                        upsampling(i, deconv) if k else nn.Identity(),
                    ]
                )
            )
        m = widths[-1]
        self.mid_block1, self.mid_block2 = TorchRes(m, m, g, emb), TorchRes(m, m, g, emb)
        self.mid_spatial_attn = Temporal(m, heads, over_frames=False)
        self.mid_temporal_attn = Temporal(m, heads)
        self.final_conv = nn.Sequential(TorchRes(2 * d, d, g), nn.Conv3d(d, 2, 1))
        self.occlusion_map = nn.Sequential(TorchRes(2 * d, d, g), nn.Conv3d(d, 1, 1))

    def forward(self, z, time, feature, condition, has_condition) -> torch.Tensor:
        t = z.shape[2]
        bias = self.time_rel_pos_bias(t)
        x = torch.cat([z, feature[:, :, None].expand(-1, -1, t, -1, -1)], 1)
        x = self.init_conv(x)
        r = x
        x = self.init_temporal_attn(x, bias)
        half = self.time_mlp[1].in_features // 2
        angle = time[:, None] * torch.exp(torch.arange(half) * -math.log(10000) / (half - 1))
        emb = self.time_mlp(torch.cat([angle.sin(), angle.cos()], -1))
        null = getattr(self, "null_cond_emb", torch.zeros(1, condition.shape[1]))
        condition = torch.where(has_condition[:, None] > 0, condition, null)
        emb = torch.cat([emb, condition], -1)
        kept = []
        for res1, res2, spatial, temporal, down in self.downs:
            x = temporal(spatial(res2(res1(x, emb), emb)), bias)
            kept.append(x)
            x = down(x)
        x = self.mid_block1(x, emb)
        x = self.mid_temporal_attn(self.mid_spatial_attn(x), bias)
        x = self.mid_block2(x, emb)
        for res1, res2, spatial, temporal, up in self.ups:
            x = torch.cat([x, kept.pop()], 1)
            x = up(temporal(spatial(res2(res1(x, emb), emb)), bias))
        x = torch.cat([x, r], 1)
        return torch.cat([self.final_conv(x), self.occlusion_map(x)], 1)
