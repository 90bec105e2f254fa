"""A stage, a metric and a weight format that the package does not have, as a user would add them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.evaluation.metrics import METRICS, MetricInput
from magicvideo_jax.experiment.networks import PIPELINE
from magicvideo_jax.experiment.stages.prompt_evaluator import PromptEvaluator
from magicvideo_jax.experiment.stages.prompt_stage import unet_objective
from magicvideo_jax.experiment.stages.registry import STAGES
from magicvideo_jax.experiment.stages.stage import Stage
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.unet import UNetConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights.components import PIPELINE_PARTS, Weights, component_weights
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.open import FORMATS

CONFIGS = {"unet": UNetConfig, "vae": VAEConfig, "text_encoder": TextConfig}


class Standing(Stage):
    """Text to clips that stand still: every frame of an example is its first frame."""

    name = "standing"
    reads_captions = True
    default_metrics = ("restlessness",)

    def components(self, experiment):
        return PIPELINE

    def objective(self, experiment, networks, tokenize):
        denoising = unet_objective(experiment, networks, tokenize)

        def objective(params, batch, key, step, /):
            pixels = jnp.broadcast_to(batch["pixels"][:, :1], batch["pixels"].shape)
            return denoising(params, {**batch, "pixels": pixels}, key, step)

        return objective

    def evaluator(self, experiment, networks, tokenize, held_out):
        return PromptEvaluator(
            experiment,
            networks,
            tokenize,
            held_out,
            objective=self.objective(experiment, networks, tokenize),
            metrics=self.metrics_of(experiment),
        )


def restlessness(measured: MetricInput) -> float:
    """Mean distance of frames from the first one, in levels of 255."""
    samples = measured.samples.astype(np.float32)
    return float(np.abs(samples - samples[:, :1]).mean())


@dataclass(frozen=True)
class NumpyArchive:
    """A pipeline in one .npz file, with its configurations as JSON; the tokenizer lies beside it."""

    name: str = "a NumPy archive"

    def matches(self, path: Path) -> bool:
        return path.suffix == ".npz"

    def open(self, path: Path, options: OpenOptions) -> Weights:
        options.refuse_all_but(path=path, why="a NumPy archive")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        configs = json.loads(str(arrays.pop("configs")))
        noise = from_plain(NoiseScheduleConfig, configs["noise"], str(path))
        params = unflatten(arrays)
        parts = {
            spec.folder: component_weights(
                spec, from_plain(CONFIGS[spec.folder], configs[spec.folder]), params[spec.folder]
            )
            for spec in PIPELINE_PARTS
        }
        vae = parts["vae"]
        parts["vae"] = replace(vae, json={**vae.json, "sample_size": configs["size"]})
        return Weights(parts, noise=noise, tokenizer=path.parent / "tokenizer", is_ours=True)


def write_archive(weights: Weights, path: Path) -> None:
    """The inverse of `NumpyArchive.open`."""
    configs = {name: to_plain(part.config) for name, part in weights.parts.items()}
    params = {name: part.load(part.network().shapes) for name, part in weights.parts.items()}
    configs |= {"noise": to_plain(weights.noise), "size": weights.parts["vae"].json["sample_size"]}
    arrays = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    np.savez(path, configs=np.array(json.dumps(configs)), **arrays)


@contextmanager
def installed() -> Iterator[None]:
    """The three in their lists; the format before those that look into every zip file."""
    archive = NumpyArchive()
    STAGES[Standing.name], METRICS["restlessness"] = Standing(), restlessness
    FORMATS.insert(0, archive)
    yield
    del STAGES[Standing.name], METRICS["restlessness"]
    FORMATS.remove(archive)
