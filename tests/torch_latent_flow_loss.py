"""The losses of LFDM's auto-encoder in torch, written from the description."""

import numpy as np
import torch
from torch.nn import functional as F
from torch_latent_flow import AntiAlias, TorchLatentFlow, grid_of, sampled

from magicvideo_jax.training.equivariance import RandomWarp

KERNEL = np.random.default_rng(5).normal(size=(3, 3, 3, 4)) / 3
"""A convolution in place of VGG-19, `h w i o`."""


def torch_features(x: torch.Tensor) -> list[torch.Tensor]:
    kernel = torch.from_numpy(KERNEL.transpose(3, 2, 0, 1).copy()).to(x)
    y = F.relu(F.conv2d(x, kernel, padding=1))
    return [y, y[:, :, ::2, ::2]]


def torch_warp(warp: RandomWarp, points: torch.Tensor) -> torch.Tensor:
    theta, bends = (torch.from_numpy(np.array(x)) for x in warp)
    centres = grid_of(5, 5, points).reshape(-1, 2)
    r = (points[:, :, None] - centres).abs().sum(-1)
    moved = points @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]
    return moved + (bends[:, None] * r**2 * torch.log(r + 1e-6)).sum(-1, keepdim=True)


def torch_loss(
    twin: TorchLatentFlow, source: torch.Tensor, driving: torch.Tensor, warp: RandomWarp
) -> torch.Tensor:
    """The sum of all terms, from its description."""
    b, _, h, w = source.shape
    s, d = twin.region_predictor(source), twin.region_predictor(driving)
    background = twin.bg_predictor(source, driving)
    flow, occlusion = twin.generator.pixelwise_flow_predictor(source, s, d, background)
    prediction, _ = twin.generator(source, flow, occlusion)
    grid = grid_of(h, w, source).reshape(1, -1, 2).expand(b, -1, 2)
    moved = sampled(driving, torch_warp(warp, grid).reshape(b, h, w, 2), "reflection")
    t = twin.region_predictor(moved)
    loss = 0
    for scale in (1, 0.5, 0.25, 0.125):
        small = [prediction, driving]
        if scale < 1:
            small = [AntiAlias(3, scale).to(source)(x) for x in small]
        for x, y in zip(*map(torch_features, small), strict=True):
            loss = loss + 10 * (x - y.detach()).abs().mean()
    shift = t["shift"]
    warped = torch_warp(warp, shift)
    loss = loss + 10 * (d["shift"] - warped).abs().mean()
    rows = [
        torch.autograd.grad(warped[..., i].sum(), shift, create_graph=True)[0] for i in range(2)
    ]
    value = torch.inverse(d["affine"]) @ (torch.stack(rows, -2) @ t["affine"])
    value = value * torch.sign(value[..., :1, :1])
    return loss + 10 * (torch.eye(2).to(source) - value).abs().mean()
