"""Motion modules in a run: they come from files or from nothing, train alone, and go back to their programs."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clip_reading import read_clip
from diffusers import MotionAdapter
from tiny import quick, random_params
from tiny_experiment import MODEL, tiny
from tiny_motion import random_folder, tiny_adapter
from tiny_weights import random_model, written

import magicvideo_jax as mv
from magicvideo_jax import convert, sample
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Condition
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.diffusion.known_schedules import (
    ANIMATEDIFF_IN_DIFFUSERS_NOISE,
    ANIMATEDIFF_NOISE,
)
from magicvideo_jax.experiment.config import Component, check_experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.experiment.setup import RunSetup, set_up_or_resume
from magicvideo_jax.experiment.shapes import fit_to_weights
from magicvideo_jax.models.lone_motion import MotionConfig, is_motion
from magicvideo_jax.models.temporal import (
    ANIMATEDIFF_V2,
    ANIMATEDIFF_V3,
    MotionNorm,
    with_motion_norm,
)
from magicvideo_jax.planning.program_plan import quick_plan
from magicvideo_jax.planning.topology import parse_topology
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.optimizer import Freeze, OptimConfig
from magicvideo_jax.weights.components import MOTION, Weights, component_weights
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.writing.write_motion import MotionFileForm, write_motion_adapter

pytestmark = pytest.mark.usefixtures("one_device")

CONFIG = MotionConfig(widths=(8, 16), blocks=1, groups=4, temporal=ANIMATEDIFF_V2)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """`image`: tiny weights; `mm.safetensors` and `adapter`: motion modules of v2 for them."""
    place = tmp_path_factory.mktemp("animatediff")
    build_vocabulary(["a", "red", "circle"], place / "words", length=MODEL.text.tokens)
    size = CaptionTokenizer(place / "words", length=MODEL.text.tokens).vocabulary_size
    model = replace(MODEL, text=replace(MODEL.text, vocabulary=size))
    written(place / "image", model, random_model(model), place / "words")
    params = random_params(MOTION.network(CONFIG).shapes, seed=5)
    part = component_weights(MOTION, CONFIG, params)
    MotionFileForm().write(Weights({MOTION.folder: part}), place / "mm.safetensors")
    write_motion_adapter(part, place / "adapter")
    return place


def experiment_of(place: Path, motion: str = "", **changes):
    """Motion modules alone train; the config's are those of v3."""
    unet = replace(MODEL.unet, temporal=ANIMATEDIFF_V3)
    return tiny(
        init_from=str(place / "image"),
        motion_from=str(place / motion) if motion else "",
        model=replace(MODEL, unet=unet),
        optim=OptimConfig(warmup=0, lr=1e-2, freeze=Freeze.TEMPORAL, ema_decay=0.0),
        **changes,
    )


def started(experiment, workdir: Path) -> RunSetup:
    folder = RunFolder(workdir)
    folder.create()
    with closing(Checkpoints(workdir)) as checkpoints:
        return set_up_or_resume(experiment, folder, checkpoints)


def motion_of(path):
    part = open_weights(path).parts[MOTION.folder]
    return flatten(part.load(part.network().shapes))


def test_a_run_begins_with_image_weights_and_motion_modules(place, tmp_path):
    setup = started(experiment_of(place, "mm.safetensors"), tmp_path)
    expected = motion_of(place / "mm.safetensors")
    trained = flatten(setup.state.params["unet"])
    assert trained.keys() == expected.keys()
    assert all((trained[path] == expected[path]).all() for path in expected)
    frozen = flatten(setup.state.frozen)
    images = flatten(random_model(setup.experiment.model))
    assert not any(is_motion(path) for path in frozen)
    assert (frozen["unet.conv_in.kernel"] == images["unet.conv_in.kernel"]).all()
    model = setup.experiment.model
    assert model.unet.temporal == ANIMATEDIFF_V2
    assert model.noise == ANIMATEDIFF_NOISE
    assert setup.from_weights == sum(leaf.size for leaf in (*expected.values(), *frozen.values()))


def test_without_a_file_the_modules_begin_as_identities(place):
    """Every frame is the image network's; the schedule is what PyTorch's programs will sample with."""
    experiment = fit_to_weights(experiment_of(place))
    assert experiment.model.unet.temporal == ANIMATEDIFF_V3
    assert experiment.model.noise == ANIMATEDIFF_NOISE
    networks = Networks(experiment.model)
    network = networks.by_component[Component.UNET]
    params = (
        initial_of(experiment)
        .parts[Component.UNET]
        .load(
            network.shapes,
            may_be_missing=("motion_module",),
            fresh=lambda: network.init(jax.random.key(0)),
        )
    )
    draw = np.random.default_rng(0)
    z = jnp.asarray(draw.normal(size=(1, 2, 8, 8, 4)), jnp.float32)
    condition = Condition(jnp.asarray(draw.normal(size=(1, 3, 8)), jnp.float32))
    both = [
        quick(
            lambda p, as_images=as_images: networks.denoise(
                {"unet": p}, z, jnp.array([7.0]), condition, as_images=as_images
            )
        )(params)
        for as_images in (False, True)
    ]
    np.testing.assert_allclose(*both, atol=1e-5)


def test_the_norm_convention_follows_the_file_unless_it_is_asked_for(place):
    def fitted(motion: str, norm: MotionNorm):
        return fit_to_weights(experiment_of(place, motion, motion_norm=norm)).model

    in_diffusers = with_motion_norm(ANIMATEDIFF_V2, MotionNorm.DIFFUSERS)
    for motion, norm, expected in (
        ("mm.safetensors", MotionNorm.AUTO, ANIMATEDIFF_V2),
        ("mm.safetensors", MotionNorm.DIFFUSERS, in_diffusers),
        ("adapter", MotionNorm.AUTO, in_diffusers),
        ("adapter", MotionNorm.ORIGINAL, ANIMATEDIFF_V2),
    ):
        assert fitted(motion, norm).unet.temporal == expected
    assert fitted("adapter", MotionNorm.AUTO).noise == ANIMATEDIFF_IN_DIFFUSERS_NOISE
    fresh = fitted("", MotionNorm.DIFFUSERS).unet.temporal
    assert fresh == with_motion_norm(ANIMATEDIFF_V3, MotionNorm.DIFFUSERS)


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    run(experiment_of(place, "adapter"), workdir)
    return workdir


def test_motion_modules_alone_are_changed_and_go_back_to_both_programs(
    place, trained, tmp_path, monkeypatch
):
    folder = RunFolder(trained)
    experiment = folder.experiment()
    params = flatten(trained_params(folder, Networks(experiment.model), experiment)["unet"])
    motion = {path: leaf for path, leaf in params.items() if is_motion(path)}
    before = motion_of(place / "mm.safetensors")
    assert all((motion[path] != before[path]).any() for path in before)
    image = open_weights(place / "image").parts["unet"]
    for path, leaf in flatten(image.load(image.network().shapes)).items():
        np.testing.assert_array_equal(params[path], leaf)

    for name, to in (("adapter", "motion_adapter"), ("mm.safetensors", "animatediff")):
        target = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["convert", str(trained), str(target), f"--to={to}"])
        convert.main()
        found = motion_of(target)
        assert all((found[path] == motion[path]).all() for path in motion)
    loaded = MotionAdapter.from_pretrained(tmp_path / "adapter")
    assert loaded.config.use_motion_mid_block
    # A run continues from a run, whose modules replace the config's.
    again = experiment_of(place, motion_norm=MotionNorm.ORIGINAL)
    model = fit_to_weights(replace(again, init_from=str(trained))).model
    assert model.unet.temporal == ANIMATEDIFF_V2
    assert model.noise == ANIMATEDIFF_IN_DIFFUSERS_NOISE


def test_the_same_command_goes_on_and_another_motion_file_is_refused(place, trained):
    again = experiment_of(place, "adapter")
    setup = started(replace(again, train=replace(again.train, steps=6)), trained)
    assert int(setup.state.step) == 4
    with pytest.raises(UserError, match=r"config\.motion_from=.*mm\.safetensors: the run in"):
        started(experiment_of(place, "mm.safetensors"), trained)


def test_a_plan_is_made_of_shapes_alone(place):
    experiment = fit_to_weights(experiment_of(place, "adapter"))
    plan = quick_plan(experiment, parse_topology("v5e:2x4"))
    held = sum(leaf.size for leaf in motion_of(place / "mm.safetensors").values())
    assert plan.parts["parameters"] == 4 * held


def test_sample_puts_motion_modules_into_image_weights(tmp_path, monkeypatch):
    tiny_adapter("v2").save_pretrained(tmp_path / "adapter")
    arguments = [
        f"--weights={random_folder()}",
        f"--motion={tmp_path / 'adapter'}",
        "--motion_norm=original",
        "--prompt=a bee",
        "--frames=3",
        "--steps=1",
        f"--out={tmp_path / 'clip.mp4'}",
    ]
    monkeypatch.setattr(sys, "argv", ["sample", *arguments])
    sample.main()
    assert read_clip(tmp_path / "clip.mp4")[0].shape == (3, 16, 16, 3)
    pipe = mv.load(random_folder(), motion=tmp_path / "adapter")
    assert pipe.experiment.data.frames == 16
    assert (pipe.experiment.sample.steps, pipe.experiment.sample.guidance) == (25, 7.5)
    assert pipe.experiment.model.noise == ANIMATEDIFF_IN_DIFFUSERS_NOISE
    with pytest.raises(UserError, match=r"ask for at most 32, or for windows"):
        pipe("a bee", frames=33)


def test_what_does_not_go_together_is_said_in_one_line(place, trained):
    motion, image = str(place / "mm.safetensors"), str(place / "image")
    unet = replace(MODEL.unet, temporal=None)
    images = tiny(init_from=image, motion_from=motion, model=replace(MODEL, unet=unet))
    for act, said in (
        (lambda: mv.load(motion), "motion modules alone: give Stable Diffusion 1.x weights here"),
        (lambda: mv.load(image, motion=image), "--motion=.* holds no motion modules"),
        (lambda: mv.load(image, motion_norm="diffusers"), "there are no motion modules"),
        (lambda: mv.load(trained, motion_norm="diffusers"), "a work folder says this itself"),
        (lambda: mv.load(image, motion_norm="v4"), "give one of auto, original"),
        (lambda: mv.load(trained, motion=motion), "has temporal layers already"),
        (lambda: check_experiment(images), "config.motion_from=.* train with configs/animatediff"),
        (
            lambda: started(
                replace(
                    experiment_of(place, "mm.safetensors"), data=replace(tiny().data, frames=40)
                ),
                place / "never",
            ),
            "config.data.frames=40: the motion modules have 32 positions: give at most 32",
        ),
    ):
        with pytest.raises(UserError, match=said) as raised:
            act()
        assert "\n" not in str(raised.value)
