"""FID's Inception V3 against a twin in torch, from uint8 frames to features."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny import quick
from torch_inception import TorchInception, torch_resize_tf1
from torch_norms import randomise_norms
from torch_weights import relative_error

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import count_parameters, flatten
from magicvideo_jax.evaluation.resizing import resize_tf1
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.inception import InceptionConfig, InceptionV3
from magicvideo_jax.weights.feature_networks import FeatureNetwork, load_feature_network
from magicvideo_jax.weights.norm_folding import with_norms

NETWORK = bind(lambda _: InceptionV3(InceptionConfig()))


@pytest.fixture(scope="module")
def twin() -> TorchInception:
    return randomise_norms(TorchInception())


@pytest.fixture(scope="module")
def network(twin: TorchInception, tmp_path_factory: pytest.TempPathFactory) -> FeatureNetwork:
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(twin.state_dict(), path)
    return load_feature_network("inception", path, argument="--weights inception")


def test_features_equal_torchs_with_tensorflows_resize(
    twin: TorchInception, network: FeatureNetwork
):
    frames = np.random.default_rng(0).integers(0, 256, (1, 60, 88, 3)).astype(np.uint8)
    resized = torch_resize_tf1(torch.from_numpy(np.moveaxis(frames, -1, 1).copy()).float(), 299)
    expected = twin((resized - 128) / 128)

    def features(frames):
        return network.apply(network.params, (resize_tf1(frames, 299, 299) - 128) / 128)

    found = quick(features)(jnp.asarray(frames, jnp.float32))
    error = relative_error(found, expected.numpy())
    logits = NETWORK.method(InceptionV3.logits)(network.params, found)
    error_of_logits = relative_error(logits, twin.fc(expected).numpy())
    print(f"features {error:.1e}, logits {error_of_logits:.1e}")
    assert error < 1e-4
    assert error_of_logits < 1e-4


def test_its_size_is_the_published_one():
    stored = with_norms(flatten(NETWORK.shapes), without=("fc",))
    assert count_parameters(stored) == 23_885_392


def test_weights_are_named_by_what_they_are(network: FeatureNetwork):
    assert network.known is None
    assert network.words.startswith("Inception V3 of unknown weights (crc ")


def test_torchvisions_network_is_refused(twin: TorchInception, tmp_path):
    torch.save(
        twin.state_dict() | {"AuxLogits.conv0.conv.weight": torch.ones(1)}, tmp_path / "v.pth"
    )
    with pytest.raises(
        UserError, match=r"torchvision's Inception V3.*: give pt_inception"
    ) as error:
        load_feature_network("inception", tmp_path / "v.pth", argument="--weights inception")
    assert "\n" not in str(error.value)


def test_images_that_are_not_resized_are_refused(network: FeatureNetwork):
    with pytest.raises(ValueError, match="takes 299 x 299"):
        network.apply(network.params, jnp.zeros((1, 224, 224, 3)))
