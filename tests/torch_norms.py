"""Random weights for networks with batch norms, every parameter and statistic of which counts."""

import torch
from torch import nn


def randomise_norms(module: nn.Module, seed: int = 0) -> nn.Module:
    """Kernels that keep the variance, and norms with random means, variances, scales and biases."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                child.weight.copy_(uniform(child.weight, 0.7, 1.3))
                child.bias.copy_(uniform(child.bias, -0.2, 0.3))
                child.running_mean.copy_(uniform(child.running_mean, -0.2, 0.2))
                # About what the convolution before it makes of inputs, and small ones, where eps counts.
                child.running_var.copy_(uniform(child.running_var, 0.01, 0.8))
            elif isinstance(child, nn.Conv2d | nn.Conv3d | nn.Linear):
                fan_in = child.weight[0].numel()
                child.weight.normal_(0, fan_in**-0.5, generator=generator)
                if child.bias is not None:
                    child.bias.copy_(uniform(child.bias, -0.5, 0.5))
    return module.eval().requires_grad_(False)
