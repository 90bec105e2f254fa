"""LaVie's three U-Nets equal their twins in PyTorch, and the original code where a checkout of it is at hand."""

import importlib.util
import os
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec
from lavie_twin import KINDS, Rotary, call, tiny_twin, weights_of
from tiny import quick, random_params
from torch_weights import copied, relative_error

from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.unet import VideoUNet
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.weights.tables.lavie_keys import LAVIE_TABLE, LAVIE_VSR_TABLE

FRAMES = {"base": 12, "interpolation": 4, "vsr": 3}


def inputs(kind: str) -> tuple[torch.Tensor, ...]:
    """Clips b c f h w of an odd height, times, text, and noise levels where the network is told them."""
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(2, tiny_twin(kind).config.channels_in, FRAMES[kind], 6, 8, generator=draw)
    text, time = (
        torch.randn(2, 5, tiny_twin(kind).config.context, generator=draw),
        torch.tensor([10.0, 700.0]),
    )
    return (z, time, text, *((torch.tensor([3, 50]),) if tiny_twin(kind).has_levels else ()))


@cache
def ours(kind: str) -> np.ndarray:
    """The output of our network on `inputs`, as b c f h w."""
    twin, config, *_ = tiny_twin(kind)
    network = bind(lambda keys: VideoUNet(config, keys=keys))
    table = LAVIE_VSR_TABLE if kind == "vsr" else LAVIE_TABLE
    params = copied(table, network.shapes, weights_of(twin))
    z, time, text, *level = (jnp.asarray(x.numpy()) for x in inputs(kind))
    z = jnp.moveaxis(z, 1, -1)
    return np.moveaxis(quick(network.apply)(params, z, time, text, None, *level), -1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_lavie_equals_its_twin(kind: str):
    assert relative_error(ours(kind), call(tiny_twin(kind).twin, *inputs(kind))) < 1e-5


@pytest.mark.parametrize("kind", ["interpolation", pytest.param("vsr", marks=pytest.mark.slow)])
def test_devices_that_share_a_clip_compute_the_same(kind: str):
    """Norms, attention and convolutions over frames that lie on two devices."""
    mesh = make_mesh(MeshConfig(1, 1, 2), jax.devices()[:2])
    config = tiny_twin(kind).config
    network = bind(lambda keys: VideoUNet(config, keys=keys))
    params = random_params(network.shapes)
    z, time, text, *level = (jnp.asarray(x.numpy()) for x in inputs(kind))
    z = jnp.moveaxis(z, 1, -1)[:, :2]
    alone = quick(network.apply)(params, z, time, text, None, *level)
    spread = jax.device_put(z, NamedSharding(mesh, PartitionSpec(None, "frames")))
    with jax.set_mesh(mesh):
        shared = quick(network.apply)(params, spread, time, text, None, *level)
    np.testing.assert_allclose(shared, alone, rtol=0, atol=2e-5 * np.abs(alone).max())


CHECKOUT = os.environ.get("LAVIE_CHECKOUT", "")
CLASSES = {
    "base": "UNet3DConditionModel",
    "interpolation": "UNet3DConditionModel",
    "vsr": "UNet3DVSRModel",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "base": {"use_relative_position": False},
    "interpolation": {"use_first_frame": True},
    "vsr": {
        "down_temporal_idx": [0, 1, 2],
        "mid_temporal": True,
        "up_temporal_idx": [0, 1, 2],
        "video_condition": False,
        "temporal_module_config": {
            "num_attention_layers": 1,
            "attention_block_types": ["", ""],
            "cross_frame_attention_mode": "0_i-1_i",
            "temporal_shift_fold_div": 2,
            "temporal_shift_direction": "right",
            "use_dcn_warpping": False,
            "use_deformable_conv": True,
            "attention_dim_div": 2,
        },
    },
}


def original(kind: str) -> torch.nn.Module:
    """The published network with the weights of the twin, loaded strictly."""
    import transformers  # noqa: F401  (before the stand-ins, of which its probes make errors)

    stand_ins = {"torchvision": types.ModuleType("torchvision")}
    if importlib.util.find_spec("rotary_embedding_torch") is None:
        stand_ins["rotary_embedding_torch"] = types.ModuleType("rotary_embedding_torch")
        stand_ins["rotary_embedding_torch"].RotaryEmbedding = lambda _: Rotary()  # pyright: ignore
    folder = Path(CHECKOUT) / kind / "models"
    spec = importlib.util.spec_from_file_location(
        f"lavie_{kind}", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setitem(sys.modules, name, stand_in)
        spec.loader.exec_module(module)
    twin, _, arguments, _ = tiny_twin(kind)
    named = {
        name: tuple(word.replace("2D", "3D") for word in value) if "types" in name else value
        for name, value in arguments.items()
    }
    network = getattr(sys.modules[f"lavie_{kind}.unet"], CLASSES[kind])(**named, **OPTIONS[kind])
    network.load_state_dict(twin.state_dict(), strict=True)
    return network.eval()


@pytest.mark.skipif(not CHECKOUT, reason="LAVIE_CHECKOUT names no checkout of LaVie's code")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_lavie_equals_the_original_code(kind: str):
    z, time, text, *level = inputs(kind)
    network = original(kind)
    with torch.no_grad():
        if kind == "vsr":
            theirs = network(z[:, :4], time, z[:, 4:], text, class_labels=level[0])
        else:
            theirs = network(z, time, text)
    theirs = theirs.sample if hasattr(theirs, "sample") else theirs
    assert relative_error(ours(kind), theirs) < 1e-5
