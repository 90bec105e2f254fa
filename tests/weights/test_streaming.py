"""Parameters stream straight onto many devices, from every kind of source."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny_pipeline import tiny_folder

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.temporal import VIDEO_PARTS, TemporalConfig
from magicvideo_jax.weights.components import UNET
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.writing.write_folders import write_jax


def _over_eight(shapes):
    """The last axis that eight divides is sharded; what has none is whole everywhere."""
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))

    def of(x):
        axes = [axis for axis, n in enumerate(x.shape) if n % 8 == 0]
        spec = [None] * len(x.shape)
        if axes:
            spec[axes[-1]] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(of, shapes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The tiny pipeline on both sides."""
    jax_folder = tmp_path_factory.mktemp("jax")
    write_jax(open_weights(tiny_folder()), jax_folder)
    return {"diffusers": tiny_folder(), "jax": jax_folder}


@pytest.mark.parametrize("side", ["diffusers", "jax"])
def test_every_shard_is_right_and_no_device_holds_all(folders, side):
    part = open_weights(folders[side]).parts["unet"]
    shapes = part.network().shapes
    whole = flatten(part.load(shapes))
    shardings = _over_eight(shapes)
    sharded, wanted = flatten(part.load(shapes, shardings=shardings)), flatten(shardings)
    sizes = dict.fromkeys(jax.devices(), 0)
    for path, x in sharded.items():
        assert x.sharding == wanted[path]
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(shard.data, np.asarray(whole[path])[shard.index])
            sizes[shard.device] += shard.data.nbytes
    assert max(sizes.values()) < 0.2 * sum(x.nbytes for x in whole.values())


@pytest.mark.parametrize("side", ["diffusers", "jax"])
def test_what_the_source_lacks_is_fresh_and_sharded(folders, side):
    part = open_weights(folders[side]).parts["unet"]
    network = UNET.network(replace(part.config, temporal=TemporalConfig(frames=2)))
    shardings = _over_eight(network.shapes)

    def drawn():
        return jax.tree.map(lambda x: jnp.full(x.shape, 7.0), network.shapes)

    with pytest.raises(UserError, match=r"\d+ missing"):
        part.load(network.shapes)
    params = part.load(network.shapes, shardings=shardings, may_be_missing=VIDEO_PARTS, fresh=drawn)
    image, wanted = flatten(part.load(part.network().shapes)), flatten(shardings)
    for path, x in flatten(params).items():
        assert x.sharding == wanted[path]
        np.testing.assert_array_equal(x, image.get(path, np.full(x.shape, 7.0, np.float32)))


def test_missing_parts_without_fresh_ones_are_a_mistake_of_the_caller(folders):
    part = open_weights(folders["diffusers"]).parts["unet"]
    network = UNET.network(replace(part.config, temporal=TemporalConfig(frames=2)))
    with pytest.raises(ValueError, match="give `fresh`"):
        part.load(network.shapes, may_be_missing=VIDEO_PARTS)


@pytest.mark.parametrize("side", ["diffusers", "jax"])
def test_parameters_of_another_size_are_refused(folders, side):
    part = open_weights(folders[side]).parts["text_encoder"]
    shapes = part.kind.network(replace(part.config, layers=3, hidden=64)).shapes
    with pytest.raises(UserError) as error:
        part.load(shapes)
    assert "missing" in str(error.value)
    assert "wrong shape" in str(error.value)
    assert "layers.2" in str(error.value)
