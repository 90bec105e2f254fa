"""I3D against a twin in torch, whose weights come in the keys of every program that publishes them."""

import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tensor_bundle_writer import write_bundle
from tiny import quick
from torch_i3d import TorchI3D
from torch_norms import randomise_norms
from torch_weights import relative_error

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import count_parameters, flatten
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.i3d import I3D, I3DConfig
from magicvideo_jax.weights.feature_networks import load_feature_network
from magicvideo_jax.weights.norm_folding import with_norms
from magicvideo_jax.weights.tables.i3d_keys import I3D_FINGERPRINTS

NETWORK = bind(lambda _: I3D(I3DConfig()))
any_size = quick(NETWORK.method(I3D.any_size))
State = dict[str, torch.Tensor]


def port_key(key: str) -> str:
    """The key that the port to TorchScript has for one of pytorch-i3d."""
    key = key.replace("logits.", "conv3d_0c_1x1.").replace(".bn.", ".batch3d.")
    key = re.sub(r"\.b0\.", ".branch_0.", key)
    key = re.sub(r"\.b(\d)([ab])\.", lambda m: f".branch_{m[1]}.{'ab'.index(m[2])}.", key)
    return key[0].lower() + key[1:]


@pytest.fixture(scope="module")
def twin() -> TorchI3D:
    return randomise_norms(TorchI3D())


def save(path: Path, state: State) -> Path:
    torch.save(state, path)
    return path


def logits(twin: TorchI3D, x: np.ndarray) -> np.ndarray:
    return twin(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()


@pytest.fixture(scope="module")
def file(twin: TorchI3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt", twin.state_dict())


@pytest.mark.parametrize("frames", [9, 10, 16, 17])
def test_logits_equal_torchs(twin: TorchI3D, file: Path, frames: int):
    """Frames of 48 x 72, of which the last map is not 7 x 7: odd and even sizes are on the way."""
    x = np.random.default_rng(frames).uniform(-1, 1, (1, frames, 48, 72, 3)).astype(np.float32)
    params = load_feature_network("i3d", file, argument="--weights i3d").params
    error = relative_error(any_size(params, x), logits(twin, x))
    print(f"{frames} frames: {error:.1e}")
    assert error < 1e-4


def test_eps_is_a_choice(file: Path):
    """VideoGPT, TATS and cd-fvd add 1e-5 to variances, the published graph 1e-3."""
    x = np.random.default_rng(0).uniform(-1, 1, (1, 9, 48, 72, 3)).astype(np.float32)
    twin = TorchI3D(eps=1e-5).eval().requires_grad_(False)
    twin.load_state_dict(torch.load(file))
    graph, port = (
        load_feature_network("i3d", file, argument="--weights i3d", eps=eps) for eps in (1e-3, 1e-5)
    )
    assert relative_error(any_size(port.params, x), logits(twin, x)) < 1e-4
    assert relative_error(any_size(graph.params, x), logits(twin, x)) > 1e-3
    assert "eps 0.001" in graph.words
    assert "eps 1e-05" in port.words


@pytest.mark.parametrize(
    "form",
    [
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
        lambda state: {port_key(k): v for k, v in state.items()},
        lambda state: {f"module.{port_key(k)}": v for k, v in state.items()},
    ],
    ids=["without counters", "the port", "the port with a prefix"],
)
def test_other_programs_keys_give_the_same(
    twin: TorchI3D, file: Path, tmp_path: Path, form: Callable[[State], State]
):
    other = save(tmp_path / "other.pt", form(dict(twin.state_dict())))
    ours, theirs = (
        load_feature_network("i3d", path, argument="--weights i3d") for path in (file, other)
    )
    assert ours.fingerprint == theirs.fingerprint
    for path, value in flatten(ours.params).items():
        assert np.array_equal(value, flatten(theirs.params)[path]), path


def tensorflow_variables(state: State, *, prefix: str, axes: int) -> dict[str, np.ndarray]:
    """TensorFlow's variables of a state, whose norms have so many axes: 1 or 5."""
    places = {"a": "Conv3d_0a_1x1", "b": "Conv3d_0b_3x3"}
    leaves = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    variables = {}
    for key, value in state.items():
        layer, part, leaf = key.rsplit(".", 2)
        unit = re.sub(r"\.b0$", "/Branch_0/Conv3d_0a_1x1", layer)
        unit = re.sub(r"\.b3b$", "/Branch_3/Conv3d_0b_1x1", unit)
        unit = re.sub(r"\.b(\d)([ab])$", lambda m: f"/Branch_{m[1]}/{places[m[2]]}", unit)
        unit = unit.replace("Mixed_5b/Branch_2/Conv3d_0b", "Mixed_5b/Branch_2/Conv3d_0a")
        unit = unit.replace("logits", "Logits/Conv3d_0c_1x1")
        if part == "conv3d":
            array = value.numpy().transpose(2, 3, 4, 1, 0) if leaf == "weight" else value.numpy()
            variables[f"{prefix}{unit}/conv_3d/{leaf[0]}"] = np.ascontiguousarray(array)
        elif leaf in leaves:
            shape = (*[1] * (axes - 1), -1)
            variables[f"{prefix}{unit}/batch_norm/{leaves[leaf]}"] = value.numpy().reshape(shape)
    return variables


@pytest.mark.parametrize(("prefix", "axes"), [("RGB/inception_i3d/", 1), ("", 5)], ids=str)
def test_tensorflows_variables_give_the_same(tmp_path: Path, prefix: str, axes: int):
    """Norms have no scale there. Kinetics-600's file has no prefix, and the optimizer's slots."""
    classes = 400 if prefix else 600
    state = randomise_norms(TorchI3D(classes)).state_dict()
    state |= {key: torch.ones(x.shape) for key, x in state.items() if key.endswith("bn.weight")}
    variables = tensorflow_variables(state, prefix=prefix, axes=axes)
    assert len(variables) == 230
    if not prefix:
        variables["Conv3d_1a_7x7/conv_3d/w/Momentum"] = np.ones(3, np.float32)
    bundle = write_bundle(tmp_path / "model.ckpt", variables)
    other = save(tmp_path / "other.pt", state)
    ours, theirs = (
        load_feature_network("i3d", path, argument="--weights i3d") for path in (bundle, other)
    )
    assert ours.fingerprint == theirs.fingerprint
    assert ours.params["logits"]["bias"].shape == (classes,)
    for path, value in flatten(ours.params).items():
        assert np.array_equal(value, flatten(theirs.params)[path]), path


def test_published_weights_are_named(file: Path, monkeypatch: pytest.MonkeyPatch):
    unknown = load_feature_network("i3d", file, argument="--weights i3d")
    assert unknown.known is None
    assert unknown.words.startswith("I3D of unknown weights (crc ")
    monkeypatch.setitem(I3D_FINGERPRINTS, unknown.fingerprint, "I3D Kinetics-400 (TF-Hub)")
    known = load_feature_network("i3d", file, argument="--weights i3d")
    assert known.words == f"I3D Kinetics-400 (TF-Hub) (crc {unknown.fingerprint}, eps 0.001)"


def test_its_size_is_the_published_one():
    stored = with_norms(flatten(NETWORK.shapes), without=("logits",))
    assert count_parameters(stored) == 12_711_824
    assert len([path for path in stored if not path.endswith(".scale")]) == 230  # TensorFlow's


def test_files_that_do_not_fit_are_refused(twin: TorchI3D, tmp_path: Path):
    state = dict(twin.state_dict())
    name = "Mixed_5c.b2b.bn.running_var"
    for change, words in (
        ({name: None}, rf"missing: {re.escape(name)} \(128,\)"),
        ({name: torch.ones(3)}, rf"{re.escape(name)} \(3,\), not \(128,\)"),
        ({"more": torch.ones(3)}, r"1 unknown: more"),
        ({name: torch.full((128,), torch.nan)}, rf"{re.escape(name)}: 128 of 128 numbers"),
        ({"logits.conv3d.bias": None}, "no vector logits.conv3d.bias, so it is no whole I3D"),
        ({"Conv3d_1a_7x7.conv3d.weight": None}, "no I3D: its keys are .* expected one of"),
    ):
        changed = {key: value for key, value in (state | change).items() if value is not None}
        path = save(tmp_path / "i3d.pt", changed)
        with pytest.raises(UserError, match=words) as error:
            load_feature_network("i3d", path, argument="--weights i3d")
        assert "\n" not in str(error.value)


def test_clips_that_are_too_short_or_not_resized_are_refused(file: Path):
    network = load_feature_network("i3d", file, argument="--weights i3d")
    for shape in ((1, 8, 224, 224, 3), (1, 9, 224, 256, 3)):
        with pytest.raises(ValueError, match="9 frames or more, 224 x 224"):
            network.apply(network.params, jnp.zeros(shape))
