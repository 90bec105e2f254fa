"""A VideoVAE trains from an image model's VAE: the encoder stays, both decoders are compared, and it is taken back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_experiment import MODEL, tiny
from tiny_weights import random_model, written

from magicvideo_jax.convert import main as convert
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.opening.initial_weights import initial_weights
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.run_folder import RunFolder, trained_params
from magicvideo_jax.experiment.scoring import evaluate_weights
from magicvideo_jax.experiment.stages.registry import check_stage
from magicvideo_jax.models.discriminator import DiscriminatorConfig
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.training.optimizer import Freeze
from magicvideo_jax.training.video_autoencoding import VideoAutoencodingConfig

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("weights")
    build_vocabulary(["a", "red", "circle"], place / "tokenizer", length=MODEL.text.tokens)
    size = CaptionTokenizer(place / "tokenizer", length=MODEL.text.tokens).vocabulary_size
    model = replace(MODEL, text=replace(MODEL.text, vocabulary=size))
    return written(place / "image", model, random_model(model), place / "tokenizer")


def experiment(init_from: str, freeze: Freeze = Freeze.DECODER, **changes) -> Experiment:
    temporal = TemporalDecoderConfig(places=(0, 1), window=2, heads=2)
    model = replace(
        MODEL,
        vae=replace(MODEL.vae, temporal=temporal),
        trained=(Component.VAE,),
        discriminator=DiscriminatorConfig(width=4, layers=2, groups=2),
    )
    usual = tiny("video_vae", init_from=init_from, model=model)
    rival = VideoAutoencodingConfig(image_weight=0.5, adversarial=0.1, adversarial_from=1)
    changes = {"video_vae": rival, "optim": replace(usual.optim, freeze=freeze), **changes}
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def trained(weights, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("video_vae")
    (workdir / "weights").symlink_to(weights)
    run(experiment(str(workdir / "weights")), workdir / "run")
    return workdir / "run"


def params_of(workdir: Path) -> dict[str, np.ndarray]:
    folder = RunFolder(workdir)
    there = folder.experiment()
    return flatten(trained_params(folder, Networks(there.model), there))


def test_the_decoder_trains_and_the_encoder_stays(trained, weights):
    _, _, params = initial_weights(weights).opened(Component.VAE)
    before, after = flatten(params), params_of(trained)
    for path, leaf in before.items():
        stays = path.startswith(("vae.encoder.", "vae.quant_conv."))
        assert np.array_equal(leaf, after[path]) is stays, path
    added = after.keys() - before.keys()
    assert {path.partition(".")[0] for path in added} == {"vae", "discriminator"}
    assert all(np.any(after[path]) for path in added if path.endswith("to_out.kernel"))


def test_both_decoders_are_scored_on_the_same_clips(trained):
    scores = json.loads((trained / "metrics.json").read_text())
    assert scores.keys() == {"image", "stills", "video", "less_flicker"}
    assert scores["image"].keys() == scores["video"].keys() >= {"psnr", "difference_error"}
    image, video = (scores[name]["difference_error"] for name in ("image", "video"))
    assert scores["less_flicker"] == pytest.approx(1 - video / image)
    assert evaluate_weights(trained) == scores
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"l1", "l1_images", "difference", "generator", "discriminator"} <= lines[-1].keys()
    assert (trained / "previews" / "step_000004.png").is_file()
    assert (trained / "previews" / "step_000004.mp4").is_file()


def test_a_run_goes_on_without_the_weights_it_came_from(weights, trained, tmp_path, capsys):
    """Bit for bit, the discriminator and its moments too; only the comparison needs them."""
    place = trained.parent / "weights"
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")  # as if it had stopped after step 2
    place.unlink()
    try:
        run(experiment(str(place)), tmp_path / "run")
    finally:
        place.symlink_to(weights)
    whole, resumed = params_of(trained), params_of(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    for path, leaf in whole.items():
        np.testing.assert_array_equal(leaf, resumed[path])
    assert "no comparison with the image decoder" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() == {"stills", "video"}


def test_what_was_trained_goes_back_to_pytorch_with_the_networks_it_belongs_to(
    trained, tmp_path, monkeypatch
):
    target = tmp_path / "there"
    monkeypatch.setattr("sys.argv", ["convert", str(trained), str(target)])
    convert()
    assert {"unet", "vae", "vae_temporal", "text_encoder", "tokenizer"} <= {
        path.name for path in target.iterdir()
    }
    initial = initial_weights(str(target))
    _, _, params = initial.opened(Component.VAE)
    there = params_of(trained)
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, there[path])


def test_only_temporal_layers_train_where_asked(weights, tmp_path):
    run(experiment(weights, Freeze.TEMPORAL, video_vae=VideoAutoencodingConfig()), tmp_path)
    _, _, params = initial_weights(weights).opened(Component.VAE)
    before, after = flatten(params), params_of(tmp_path)
    assert {path for path, leaf in after.items() if not np.array_equal(leaf, before.get(path))} == {
        path for path in after if ".temporal." in path
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": replace(MODEL, trained=(Component.VAE,))}, r"config\.model\.vae\.temporal"),
        ({"init_from": "scratch"}, r"config\.init_from=scratch"),
        ({"optim": replace(tiny().optim, freeze=Freeze.ALL)}, r"config\.optim\.freeze=all"),
        ({"data": replace(tiny().data, frames=1)}, r"config\.data\.frames=1"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, said):
    with pytest.raises(UserError, match=said):
        check_stage(replace(experiment("weights"), **changes))


def test_other_stages_have_no_decoder_to_train():
    with pytest.raises(UserError, match=r"config\.optim\.freeze=decoder"):
        check_stage(tiny(optim=replace(tiny().optim, freeze=Freeze.DECODER)))


def test_taesd_takes_temporal_layers_too_and_is_taken_back(shared_assets, tmp_path, monkeypatch):
    """Its published weights: the encoder and the convolutions stay bit for bit, both ways of `convert`."""
    published = str(shared_assets / "taesd")
    temporal = TemporalDecoderConfig(places=(0, 2), window=2, heads=2)
    model = replace(MODEL, vae=replace(MODEL.vae, temporal=temporal), trained=(Component.VAE,))
    usual = tiny("video_vae", init_from=published, model=model)
    run(replace(usual, optim=replace(usual.optim, freeze=Freeze.TEMPORAL)), tmp_path / "run")
    trained = params_of(tmp_path / "run")
    for source, target in (("run", "jax"), ("jax", "theirs")):
        to = ["--to", "jax"] if target == "jax" else []
        monkeypatch.setattr(
            "sys.argv", ["convert", str(tmp_path / source), str(tmp_path / target), *to]
        )
        convert()
    for place in ("run", "jax", "theirs"):
        initial = initial_weights(str(tmp_path / place))
        assert initial.parts[Component.VAE].config.temporal == temporal
        _, _, params = initial.opened(Component.VAE)
        for path, leaf in flatten(params).items():
            np.testing.assert_array_equal(leaf, trained[path])
    _, _, before = initial_weights(published).opened(Component.VAE)
    for path, leaf in flatten(before).items():
        np.testing.assert_array_equal(leaf, trained[path])
    assert any(np.any(leaf) for path, leaf in trained.items() if path.endswith("to_out.kernel"))
    for half in ("encoder", "decoder"):
        name = f"taesd_{half}.safetensors"
        ours, theirs = load_file(tmp_path / "theirs" / name), load_file(f"{published}/{name}")
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key].astype(np.float32)) for key in theirs)
