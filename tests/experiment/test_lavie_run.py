"""Fine-tuning LaVie: from its checkpoint, on the one step and loop, and back to its dictionary."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from lavie_twin import call, tiny_twin
from safetensors.torch import load_file
from tiny_experiment import tiny
from tiny_lavie import FILES, lavie_files, stable_diffusion
from torch_weights import relative_error

from magicvideo_jax import convert
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.diffusion.known_schedules import LAVIE_NOISE
from magicvideo_jax.experiment.config import Experiment, ModelConfig
from magicvideo_jax.experiment.networks import Networks, split_trained
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.shapes import fit_to_weights
from magicvideo_jax.models.temporal import LAVIE, TemporalConfig
from magicvideo_jax.models.unet import UNetConfig
from magicvideo_jax.training.optimizer import Freeze

BASE = str(lavie_files() / FILES["base"])


def experiment(temporal: TemporalConfig = LAVIE, **changes) -> Experiment:
    unet = UNetConfig(temporal=temporal)
    usual = tiny(init_from=str(stable_diffusion()), unet_from=BASE, model=ModelConfig(unet=unet))
    return replace(usual, **changes)


def test_sizes_and_schedule_of_a_run_are_those_of_its_weights():
    fitted = fit_to_weights(experiment())
    assert fitted.model.unet == tiny_twin("base").config
    assert fitted.model.noise == LAVIE_NOISE


def test_layers_that_begin_as_nothing_are_trained_for_the_schedule_of_lavie():
    fresh = fit_to_weights(experiment(unet_from=""))
    assert fresh.model.unet.temporal == LAVIE
    assert fresh.model.noise == LAVIE_NOISE


def test_temporal_layers_alone_are_what_lavie_adds():
    alone = experiment()
    alone = fit_to_weights(replace(alone, optim=replace(alone.optim, freeze=Freeze.TEMPORAL)))
    shapes = Networks(alone.model).by_component
    params = {component.value: network.shapes for component, network in shapes.items()}
    trained = flatten(split_trained({"unet": params["unet"]}, alone)[0])
    assert len(trained) == 8 * 4  # in 4 transformer blocks; the ninth tensor is a constant
    assert all(".temporal." in path for path in trained)


def test_other_temporal_layers_than_those_of_the_weights_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"has LaVie's temporal layers.*configs/lavie\.py"):
        initial_of(experiment(TemporalConfig(frames=2)))


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_run_goes_back_to_the_dictionary_of_lavie(tmp_path: Path, monkeypatch):
    """What its own code would compute with it is what the run has learned, and not what it began with."""
    run(experiment(), tmp_path / "run")
    arguments = [str(tmp_path / "run"), str(tmp_path / "a.safetensors")]
    monkeypatch.setattr(sys, "argv", ["convert", *arguments])
    convert.convert(convert._arguments())
    twin, state = tiny_twin("base").twin, load_file(tmp_path / "a.safetensors")
    before = {key: x.clone() for key, x in twin.state_dict().items()}
    inputs = torch.randn(1, 4, 2, 4, 4), torch.tensor([500.0]), torch.randn(1, 3, 64)
    first = call(twin, *inputs)
    twin.load_state_dict(state, strict=True)
    assert relative_error(call(twin, *inputs), first) > 1e-3
    twin.load_state_dict(before)
    assert np.isfinite(jax.device_get(first.numpy())).all()
