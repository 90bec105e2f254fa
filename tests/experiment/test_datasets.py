"""Training on prepared sets: the source that a config names is what is learned from, or one line says why not."""

import json
from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import pytest
from test_prepare import prepare_here
from tiny_experiment import tiny

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.data.drawn.shape_clips import DrawnClip, clip_at, image_at
from magicvideo_jax.data.records import (
    SETTINGS,
    frame_features,
    latent_features,
    shard_path,
    to_png,
    write_metadata,
    write_records,
)
from magicvideo_jax.experiment.config import (
    Component,
    Experiment,
    SourceConfig,
    config_dict,
    read_experiment,
)
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.setup import RunSetup, set_up_or_resume
from magicvideo_jax.media.clip_files import save_video
from magicvideo_jax.preparation.latent_encoder import LatentEncoder, open_latent_encoder
from magicvideo_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A VAE of few numbers in a work folder."""
    folder = tmp_path_factory.mktemp("vae")
    experiment = tiny("vae")
    run(replace(experiment, train=replace(experiment.train, steps=2, preview_every=2)), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(vae) -> LatentEncoder:
    return open_latent_encoder(str(vae), argument="--vae")


def write_set(folder, encoder: LatentEncoder | None, clips: list[DrawnClip]):
    """What `prepare` would make of drawn clips: latents, or without an encoder frames."""
    features = frame_features()
    contents = [{"frames": to_png(one.pixels)} for one in clips]
    if encoder is not None:
        frames, size = clips[0].pixels.shape[:2]
        features = latent_features(encoder.shape(frames, size, size))
        contents = [
            {"latents": of} for of in encoder.batches(8)(np.stack([one.pixels for one in clips]))
        ]
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        records = [
            {"name": f"{i}.mp4", "captions": [one.caption], "fps": one.fps, **content}
            for i, (one, content) in enumerate(zip(clips, contents, strict=True))
        ]
        write_records(shard_path(folder, split, 0, 1), records, features)
    write_metadata(folder, features, {"train": [len(clips)], "validation": [len(clips)]}, "A test.")
    write_json(folder / SETTINGS, {"latents": None if encoder is None else encoder.identity})
    return folder


def drawn(number: int = 8, **how) -> list[DrawnClip]:
    return [clip_at(0, i, **{"frames": 2, "size": 16, **how}) for i in range(number)]


def learning_from(*sources: SourceConfig, vae, **changes) -> Experiment:
    experiment = tiny(init_from=str(vae))
    return replace(experiment, data=replace(experiment.data, sources=sources, **changes))


def prepare(clips, out, *how: str) -> str:
    """What `prepare` says of clips of two frames, whose captions lie beside their folder."""
    captions = clips.parent / "captions.csv"
    given = (f"--videos={clips}", f"--captions={captions}", f"--out={out}", *how)
    code, said, error = prepare_here(*given, "--frames=2", "--workers=1")
    assert code == 0, error
    return said


def started(experiment, workdir) -> RunSetup:
    folder = RunFolder(workdir)
    folder.create()
    with closing(Checkpoints(workdir)) as checkpoints:
        return set_up_or_resume(experiment, folder, checkpoints)


def test_a_run_learns_from_a_prepared_set_and_is_scored_on_its_validation_split(
    vae, encoder, tmp_path
):
    source = write_set(tmp_path / "set", encoder, drawn())
    run(learning_from(SourceConfig(str(source)), vae=vae), tmp_path / "run")
    assert (tmp_path / "run/previews/step_000004.mp4").is_file()
    scores = RunFolder(tmp_path / "run").metrics.read_text()
    assert "caption_accuracy" not in scores
    assert '"held_out_loss"' in scores
    assert '"motion"' in scores


def test_latents_are_samples_of_what_the_vae_says_afresh(vae, encoder, tmp_path):
    clips = drawn()
    source = write_set(tmp_path / "set", encoder, clips)
    ready = started(learning_from(SourceConfig(str(source)), vae=vae), tmp_path / "run")
    batches = [next(ready.loader) for _ in range(12)]
    scale = ready.experiment.model.vae.scaling
    noise = []
    for i, one in enumerate(clips):
        ids = ready.tokenizer([one.caption])[0]
        if sum((ready.tokenizer([other.caption])[0] == ids).all() for other in clips) > 1:
            continue
        mean, log_variance = ready.networks.moments(
            ready.state.frozen, to_float(jax.numpy.asarray(one.pixels[None]))
        )
        found = [
            b["latents"][r]
            for b in batches
            for r in range(8)
            if (np.asarray(b["ids"][r]) == ids).all()
        ]
        assert len(found) == 12, i
        noise.append(
            (np.stack(found) / scale - np.asarray(mean)) / np.exp(0.5 * np.asarray(log_variance))
        )
    noise = np.concatenate(noise)
    assert abs(noise.mean()) < 0.05
    assert 0.95 < noise.std() < 1.05
    assert np.std(noise, axis=0).min() > 0.3  # another sample each round


def test_sources_mix_by_weight_and_pictures_come_beside(vae, encoder, tmp_path):
    clips = write_set(tmp_path / "clips", encoder, drawn())
    frames = write_set(tmp_path / "pictures", encoder, [image_at(0, i, size=16) for i in range(8)])
    shapes = SourceConfig(weight=1.0)
    mixed = learning_from(
        SourceConfig(str(clips), weight=3.0),
        vae=vae,
        joint_images=True,
        image_sources=(SourceConfig(str(frames)), SourceConfig(str(clips))),
    )
    batch = next(started(mixed, tmp_path / "mixed").loader)
    assert batch["video"]["latents"].shape == (8, 2, 8, 8, 4)
    assert batch["image"]["latents"].shape == (8, 1, 8, 8, 4)
    with pytest.raises(UserError, match=r"config\.data\.sources mixes pixels and latents"):
        started(
            replace(mixed, data=replace(mixed.data, sources=(*mixed.data.sources, shapes))),
            tmp_path / "both",
        )


def test_a_set_of_several_sizes_is_learned_from_a_size_a_batch(vae, encoder, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for i, one in enumerate(drawn(12, size=32, frames=4)):
        pixels = one.pixels if i % 3 else one.pixels[:, 8:24]  # every third is wide
        save_video(pixels, clips / f"{i:02d}.gif", fps=8)
    (tmp_path / "captions.csv").write_text(
        "\n".join(["video,caption", *(f"{i:02d}.gif,a red circle" for i in range(12))])
    )
    sizes = ["--size=16x16,24x12", "--per_shard=8", "--validation=0.2"]
    said = prepare(clips, tmp_path / "set", f"--vae={vae}", *sizes)
    assert "  16x16: 8" in said
    assert "  24x12: 4" in said
    run(learning_from(SourceConfig(str(tmp_path / "set")), vae=vae), tmp_path / "run")
    examples = started(
        learning_from(SourceConfig(str(tmp_path / "set")), vae=vae), tmp_path / "other"
    ).loader
    shapes = {next(examples)["latents"].shape for _ in range(6)}
    assert shapes == {(8, 2, 8, 8, 4), (8, 2, 6, 12, 4)}
    for clip_of_both in clips.glob("*.gif"):  # only wide ones are left
        if int(clip_of_both.stem) % 3:
            clip_of_both.unlink()
    rows = [f"{clip_of_both.name},a red circle" for clip_of_both in clips.glob("*.gif")]
    (tmp_path / "captions.csv").write_text("\n".join(["video,caption", *rows]))
    prepare(clips, tmp_path / "wide", f"--vae={vae}", *sizes)
    wide = started(
        learning_from(SourceConfig(str(tmp_path / "wide")), vae=vae), tmp_path / "fourth"
    ).loader
    assert next(wide)["latents"].shape == (8, 2, 6, 12, 4)
    (tmp_path / "set/sizes.json").write_text('{"train": [0], "validation": [0]}')
    with pytest.raises(UserError, match=r"sizes\.json has 1 records"):
        started(learning_from(SourceConfig(str(tmp_path / "set")), vae=vae), tmp_path / "third")


def test_text_states_made_beforehand_stand_for_captions(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    captions = ["a red circle moving left", "a blue star resting"]
    for i, one in enumerate(drawn(3, frames=4)):
        save_video(one.pixels, clips / f"{i}.gif", fps=8)
    rows = [
        f"0.gif,{captions[0]}",
        f"1.gif,{captions[1]}",
        f"1.gif,{captions[0]}",
    ]  # and one is unlabelled
    (tmp_path / "captions.csv").write_text("\n".join(["video,caption", *rows, "2.gif,"]) + "\n")
    sizes = ["--size=16", "--per_shard=3", "--validation=0"]
    prepare(clips, tmp_path / "set", "--vae=embedded", "--text=embedded", *sizes)

    source = (SourceConfig(str(tmp_path / "set")),)
    experiment = tiny(init_from="embedded")
    temporal = replace(experiment.model.unet.temporal, frames=2)
    model = replace(experiment.model, unet=replace(experiment.model.unet, temporal=temporal))
    data = replace(experiment.data, sources=source)
    ready = started(replace(experiment, model=model, data=data), tmp_path / "run")
    batches = [next(ready.loader) for _ in range(6)]
    assert "ids" not in batches[0]
    afresh = np.asarray(
        ready.networks.encode_text(ready.state.frozen, jax.numpy.asarray(ready.tokenizer(captions)))
    )
    seen = set()
    for batch in batches:
        for text, told in zip(
            np.asarray(batch["text"]), np.asarray(batch["is_captioned"]), strict=True
        ):
            nearest = int(np.abs(afresh - text).mean(axis=(1, 2)).argmin())
            np.testing.assert_allclose(text, afresh[nearest] if told else 0, atol=4e-3)
            seen.add(nearest if told else None)
    assert seen == {0, 1, None}
    loss = jax.eval_shape(ready.abstract.step, ready.state, batches[0])[1]["loss"]
    assert loss.shape == ()

    trained = replace(model, trained=(Component.UNET, Component.TEXT))  # which reads for itself
    other = started(replace(experiment, model=trained, data=data), tmp_path / "other")
    assert "ids" in next(other.loader)
    settings = json.loads((tmp_path / "set" / SETTINGS).read_text())
    settings["text"]["norms"] = {name: 2 * norm for name, norm in settings["text"]["norms"].items()}
    write_json(tmp_path / "set" / SETTINGS, settings)
    with pytest.raises(UserError, match="text states of another text encoder"):
        started(replace(experiment, model=model, data=data), tmp_path / "third")


def test_a_vae_learns_from_frames(vae, encoder, tmp_path):
    source = write_set(tmp_path / "frames", None, drawn())
    experiment = tiny("vae")
    experiment = replace(
        experiment, data=replace(experiment.data, sources=(SourceConfig(str(source)),))
    )
    run(
        replace(experiment, train=replace(experiment.train, steps=2, preview_every=2)),
        tmp_path / "run",
    )
    assert '"psnr"' in RunFolder(tmp_path / "run").metrics.read_text()
    latents = SourceConfig(str(write_set(tmp_path / "latents", encoder, drawn())))
    with pytest.raises(UserError, match="run prepare with --pixels"):
        started(
            replace(experiment, data=replace(experiment.data, sources=(latents,))),
            tmp_path / "other",
        )


@pytest.mark.parametrize(
    ("source", "changes", "said"),
    [
        ({"path": "nothing"}, {}, "no TFDS data set there"),
        ({"split": "test"}, {}, "there is no split test; there is train, validation"),
        ({}, {"frames": 3}, "has clips of 2 frames: give config.data.frames=2"),
        ({}, {"size": 32}, "has clips of 16 x 16 pixels, but config.data.size=32"),
    ],
)
def test_a_set_that_does_not_fit_is_named(vae, encoder, tmp_path, source, changes, said):
    path = write_set(tmp_path / "set", encoder, drawn())
    experiment = learning_from(SourceConfig(**{"path": str(path), **source}), vae=vae, **changes)
    unet = replace(
        experiment.model.unet, temporal=replace(experiment.model.unet.temporal, frames=4)
    )
    with pytest.raises(UserError, match=said) as caught:
        started(replace(experiment, model=replace(experiment.model, unet=unet)), tmp_path / "run")
    assert "config.data.sources" in str(caught.value)


def test_latents_of_another_vae_are_refused(vae, encoder, tmp_path):
    path = write_set(tmp_path / "set", encoder, drawn())
    norms = {name: 2 * norm for name, norm in encoder.identity["norms"].items()}
    for wrong, said in (
        ({"norms": norms}, "the weights of the encoder"),
        ({"scaling": 3.0}, "scaling 3.0 and"),
    ):
        write_json(path / SETTINGS, {"latents": encoder.identity | wrong})
        with pytest.raises(UserError, match=rf"latents of another VAE \({said}"):
            started(learning_from(SourceConfig(str(path)), vae=vae), tmp_path / "run")


def test_fields_of_sources_are_checked():
    config = config_dict(Experiment())
    assert config.data.sources[0]["path"] == "shapes"
    plain = to_plain(tiny())
    for data, said in (
        ({"sources": ()}, "config.data.sources is empty"),
        ({"image_sources": ({"weight": 0.0},)}, r"config\.data\.image_sources\[0\]\.weight=0"),
        (
            {"sources": ({"path": "set"},), "precompute_examples": 64},
            "config.data.precompute_examples=64",
        ),
    ):
        with pytest.raises(UserError, match=said):
            read_experiment(plain | {"data": plain["data"] | data})
