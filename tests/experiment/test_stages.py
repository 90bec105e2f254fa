"""Laws of the stages and of the data they are given, which need no training."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.datasets import StreamInputs, training_stream
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import abstract_run
from magicvideo_jax.experiment.stages.registry import STAGES, check_stage, stage_of
from magicvideo_jax.models.temporal import LATENT_SHIFT, LAVIE, TemporalConfig
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.training.optimizer import Freeze
from magicvideo_jax.training.step import CompiledStep


def joint(**changes) -> Experiment:
    experiment = tiny(**changes)
    return replace(experiment, data=replace(experiment.data, joint_images=True))


def first_examples(experiment: Experiment, number: int, frozen: Params | None = None) -> list:
    inputs = StreamInputs(
        experiment,
        Networks(experiment.model),
        lambda texts: np.zeros((len(texts), 24), np.int32),
        frozen or {},
    )
    examples = training_stream(inputs, stage_of(experiment).frames(experiment))
    return [examples[i] for i in range(number)]


def test_an_image_beside_a_clip_is_not_a_still_of_it():
    """Clip and image once were drawn from one seed: each image then was a frame of the clip beside it."""
    for one in first_examples(joint(), 16):
        image, clip = one["image"]["pixels"], one["video"]["pixels"]
        assert image.shape == (1, *clip.shape[1:])
        assert all((image[0] != frame).any() for frame in clip)


def test_the_clips_of_joint_training_are_those_without_images():
    alone = first_examples(tiny(), 4)
    beside = first_examples(joint(), 4)
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one["pixels"], other["video"]["pixels"])


def test_every_stage_is_refused_a_name_that_is_none():
    with pytest.raises(UserError, match=r"config\.stage=drawing: give one of vae, image, video"):
        stage_of(tiny(stage="drawing"))


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_metric_that_there_is_not_is_named(name: str):
    experiment = tiny(name)
    known = replace(experiment.evaluate, metrics=("psnr", "beauty"))
    with pytest.raises(UserError, match=r"config\.(evaluate\.metrics: .*beauty|model\.vae)"):
        check_stage(replace(experiment, evaluate=known))


@pytest.mark.parametrize(
    ("freeze", "temporal", "said"),
    [
        (Freeze.TEMPORAL, LATENT_SHIFT, "temporal: .*mixing=shift, adaptors=False.*give all"),
        (Freeze.TEMPORAL, replace(LATENT_SHIFT, fps=True), "temporal: .*give all"),
        (Freeze.ADAPTOR, LAVIE, "adaptor: .*mixing=lavie, adaptors=False.*give all"),
    ],
    ids=["shift", "shift and frame rate", "adaptors of a network without"],
)
def test_a_freeze_that_leaves_no_layer_to_train_is_named(
    freeze: Freeze, temporal: TemporalConfig, said: str
):
    experiment = tiny()
    unet = replace(experiment.model.unet, temporal=temporal)
    frozen = replace(
        experiment,
        model=replace(experiment.model, unet=unet),
        optim=replace(experiment.optim, freeze=freeze),
    )
    with pytest.raises(UserError, match=rf"config\.optim\.freeze={said}"):
        check_stage(frozen)
    check_stage(replace(frozen, optim=replace(frozen.optim, freeze=Freeze.ALL)))


@pytest.mark.parametrize("name", ["vae", "image"])
def test_images_are_not_split_over_frames(name: str):
    experiment = tiny(name, mesh=MeshConfig(data=-1, frames=2))
    with pytest.raises(UserError, match=r"config\.mesh\.frames=2: clips of 1 frames"):
        abstract_run(experiment, Networks(experiment.model), make_mesh(experiment.mesh))


def test_frames_that_the_mesh_does_not_divide_are_named():
    experiment = tiny(mesh=MeshConfig(data=-1, frames=2))
    model = experiment.model
    temporal = replace(model.unet.temporal, frames=3)
    model = replace(model, unet=replace(model.unet, temporal=temporal))
    experiment = replace(experiment, model=model, data=replace(experiment.data, frames=3))
    with pytest.raises(UserError, match=r"config\.mesh\.frames=2: clips of 3 frames"):
        abstract_run(experiment, Networks(model), make_mesh(experiment.mesh))


def test_joint_images_stay_whole_where_clips_are_split_over_frames():
    """The step of clips and images is lowered for a mesh that shares a clip's frames among devices."""
    experiment = joint(mesh=MeshConfig(data=4, frames=2))
    experiment = replace(experiment, train=replace(experiment.train, batch_size=4))
    run = abstract_run(experiment, Networks(experiment.model), make_mesh(experiment.mesh))
    shards = {
        name: part["pixels"].sharding.shard_shape(part["pixels"].shape)[:2]
        for name, part in run.batch.items()
    }
    assert shards == {"video": (1, 1), "image": (1, 1)}
    assert run.batch["image"]["pixels"].shape[1] == 1
    traced = CompiledStep(run.step, run.state).trace(run.state, run.batch)
    assert jax.tree.leaves(traced.lower().as_text())
