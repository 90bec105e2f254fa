"""LaVie from its files: a clip, then more frames, then more pixels; wrong files are refused in one line."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from clip_reading import read_clip
from tiny_lavie import FILES, lavie_files, stable_diffusion, upscaler

from magicvideo_jax import load, sample
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion import known_schedules
from magicvideo_jax.experiment.cascade.clip_upscaling import load_upscaling
from magicvideo_jax.experiment.cascade.frame_interpolation import load_interpolation
from magicvideo_jax.experiment.opening.initial_weights import (
    check_same_latents,
    initial_weights,
)
from magicvideo_jax.media.frame_reader import read_timeline
from magicvideo_jax.models.temporal import LAVIE
from magicvideo_jax.sampling.keyframes import SampleConfig, Sampler

pytestmark = pytest.mark.usefixtures("one_device")

BASE, INTERPOLATION, VSR = (str(lavie_files() / name) for name in FILES.values())


def test_base_samples_as_its_authors_do():
    experiment = load(stable_diffusion(), unet=BASE).experiment
    assert experiment.model.unet.temporal == LAVIE
    assert experiment.model.noise == known_schedules.LAVIE_NOISE
    assert experiment.sample.sampler is Sampler.DDPM
    assert (experiment.sample.size, experiment.data.frames) == ((320, 512), 16)


def sample_command(*arguments: str) -> None:
    common = [f"--weights={stable_diffusion()}", "--prompt=a b", "--steps=2", "--size=8x16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sample", *common, "--frames=3", *arguments])
        sample.sample(sample._arguments())


def test_one_command_samples_interpolates_and_upscales(tmp_path: Path):
    out = tmp_path / "clip.mp4"
    sample_command(
        f"--out={out}",
        f"--unet={BASE}",
        f"--interpolate={INTERPOLATION}",
        f"--upscale={upscaler()}",
        f"--super_resolution={VSR}",
        f"--keep={tmp_path / 'stages'}",
    )
    stages = {"0_keyframes": (3, 8, 16), "1_interpolated": (9, 8, 16), "2_upscaled": (9, 32, 64)}
    assert {
        file.stem: read_clip(file)[0].shape[:3] for file in (tmp_path / "stages").iterdir()
    } == stages
    assert (tmp_path / "stages/2_upscaled.mp4").read_bytes() == out.read_bytes()
    assert read_timeline(out).rate == pytest.approx(24)
    with av.open(out) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert np.stack(frames).shape == (9, 32, 64, 3)
    assert len(np.unique(frames)) > 50


CLIP = np.random.default_rng(0).integers(0, 256, (3, 8, 16, 3), np.uint8)


def test_interpolation_keeps_the_size_and_depends_on_the_clip():
    refine = load_interpolation(stable_diffusion(), unet=INTERPOLATION)
    clips = np.stack([CLIP[:2], 255 - CLIP[:2]])
    made = refine.many(clips, ["a b", "a b"], sample=SampleConfig(steps=1))
    assert made.shape == (2, 5, 8, 16, 3)
    assert not np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], refine(CLIP[:2], "a b", steps=1, guidance=7.5))
    assert not np.array_equal(made[0], refine(CLIP[:2], "a b", steps=1, guidance=7.5, seed=1))
    with pytest.raises(UserError, match="a clip of 1 frame has nothing between"):
        refine(CLIP[:1], "a b")


def test_the_image_upscaler_upscales_every_frame_with_noise_of_its_own():
    refine = load_upscaling(upscaler())
    clip = np.repeat(CLIP[:1], 9, axis=0)[:, :4, :4]
    made = refine(clip, "a", steps=1)
    assert made.shape == (9, 16, 16, 3)
    assert not np.array_equal(made[0], made[8])
    refine.release()
    assert np.array_equal(made, refine(clip, "a", steps=1))


def test_networks_of_other_latents_are_refused():
    here, there = initial_weights(str(stable_diffusion())), initial_weights("embedded")
    check_same_latents(here, here, "--interpolate=here")
    with pytest.raises(
        UserError, match=r"--interpolate=there: for latents of another VAE .*channels 8 and 4"
    ):
        check_same_latents(here, there, "--interpolate=there")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([f"--unet={VSR}"], "lavie_vsr.pt: a U-Net for super-resolution, not for text to image"),
        (
            [f"--unet={INTERPOLATION}"],
            "a U-Net for frame interpolation.*give it as --interpolate",
        ),
        ([f"--unet={BASE}", f"--interpolate={BASE}"], "--interpolate=.*give it as --unet"),
        ([f"--unet={BASE}", f"--super_resolution={VSR}"], "give the folder of .* as --upscale"),
        (["--weights=embedded", f"--interpolate={INTERPOLATION}"], "--interpolate=.*give"),
        ([f"--keep={BASE}"], "--keep=.*lavie_base.pt: a file: give a folder"),
        ([f"--upscale={stable_diffusion()}"], "--upscale=.*not for super-resolution"),
        (
            [f"--upscale={upscaler()}", f"--super_resolution={BASE}"],
            "--super_resolution=.*give it as --unet",
        ),
        ([f"--weights={upscaler()}"], "--workdir=.*give it as --super_resolution, or its whole"),
        (
            [f"--weights={BASE}"],
            "lavie_base.pt: holds no VAE and no text encoder: give weights that hold them, and",
        ),
        (["--size=8"], "--size=8: give height and width in pixels, as in 320x512"),
        ([f"--unet={BASE}", "--size=9x16"], "--size=9x16: give multiples of 2"),
    ],
)
def test_wrong_files_are_refused_in_one_line_before_anything_is_sampled(
    tmp_path: Path, arguments: list[str], words: str
):
    with pytest.raises(UserError, match=words) as error:
        sample_command(f"--out={tmp_path / 'clip.mp4'}", *arguments)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
