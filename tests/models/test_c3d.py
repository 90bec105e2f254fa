"""C3D against a twin in torch, from pixels to logits, with the keys of TGANv2's file."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny import quick
from torch.nn import functional as F
from torch_norms import randomise_norms
from torch_weights import copied, relative_error

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.core.types import Params
from magicvideo_jax.evaluation.resizing import c3d_frames
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.c3d import C3D, C3DConfig
from magicvideo_jax.weights.feature_networks import load_feature_network
from magicvideo_jax.weights.tables.c3d_keys import C3D_TABLE

WIDTHS = (1, 2, 4, 4, 8, 8, 8, 8)
NAMES = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
POOLED = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")


class TorchC3D(torch.nn.Module):
    """Logits of `b 3 t h w`."""

    def __init__(self, width: int = 64, hidden: int = 4096):
        super().__init__()
        channels = 3
        for name, factor in zip(NAMES, WIDTHS, strict=True):
            setattr(self, name, torch.nn.Conv3d(channels, factor * width, 3, padding=1))
            channels = factor * width
        self.fc6 = torch.nn.Linear(channels * 16, hidden)
        self.fc7, self.fc8 = torch.nn.Linear(hidden, hidden), torch.nn.Linear(hidden, 101)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in NAMES:
            x = F.relu(getattr(self, name)(x))
            if name in POOLED:
                x = F.max_pool3d(x, (1 if name == "conv1a" else 2, 2, 2), ceil_mode=True)
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x.flatten(1))))))


def inputs() -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Clips in [-1, 1], the mean of training clips, and what TGANv2 makes of the two."""
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (1, 16, 48, 64, 3)).astype(np.float32)
    mean = draw.uniform(80, 130, (3, 16, 128, 171)).astype(np.float32)
    frames = torch.from_numpy(x[0, ..., ::-1].transpose(0, 3, 1, 2).copy()) * 128
    frames = F.interpolate(frames, (112, 112), mode="bilinear", align_corners=True)
    frames = frames.transpose(0, 1) + (128 - torch.from_numpy(mean)[:, :, 8:120, 8:120])
    return x, mean.transpose(1, 2, 3, 0), frames[None]


def error_of(network: Network, params: Params, twin: TorchC3D) -> float:
    x, mean, frames = inputs()
    logits = quick(lambda params, x: network.apply(params, c3d_frames(x, jnp.asarray(mean))))
    return relative_error(logits(params, jnp.asarray(x)), twin(frames).numpy())


def test_logits_equal_torchs_from_pixels():
    twin = randomise_norms(TorchC3D(width=4, hidden=32))
    network = bind(lambda _: C3D(C3DConfig(width=4, hidden=32)))
    error = error_of(network, copied(C3D_TABLE, network.shapes, twin.state_dict()), twin)
    print(f"logits {error:.1e}")
    assert error < 1e-4


def test_its_size_is_the_published_one():
    assert count_parameters(bind(lambda _: C3D(C3DConfig())).shapes) == 78_409_573


@pytest.mark.slow
def test_the_file_of_tganv2_is_read(tmp_path: Path):
    twin = randomise_norms(TorchC3D())
    leaves = {"weight": "W", "bias": "b"}
    names = {key: key.split(".")[0] + "/" + leaves[key.split(".")[1]] for key in twin.state_dict()}
    assert len(names) == 22
    path = tmp_path / "conv3d_deepnetA_ucf.npz"
    np.savez(path, **{names[key]: x.numpy() for key, x in twin.state_dict().items()})
    found = load_feature_network("c3d", path, argument="--weights c3d")
    error = error_of(bind(lambda _: C3D(C3DConfig())), found.params, twin)
    print(f"logits {error:.1e}")
    assert error < 1e-4
    assert found.words.startswith("C3D of unknown weights (crc ")


def test_arrays_that_are_no_numbers_are_refused(tmp_path: Path):
    path = tmp_path / "c3d.npz"
    np.savez(path, **{"conv1a/W": np.array([{}], object)})
    with pytest.raises(UserError, match="not a whole file of NumPy's arrays") as error:
        load_feature_network("c3d", path, argument="--weights c3d")
    assert "\n" not in str(error.value)
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="not a whole file of NumPy's arrays"):
        load_feature_network("c3d", path, argument="--weights c3d")
