"""A trained model in the hand: `pipe = load(DIR); clip = pipe("a red circle moving left", seed=0)`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.class_names import ClassNames
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import (
    EditedClips,
    KnownFrames,
    KnownLatents,
    Params,
    PicturePrompts,
)
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.generator import Generator, SampleRequest, mesh_of_params
from magicvideo_jax.experiment.networks import FLOW, PIPELINE, Networks
from magicvideo_jax.experiment.opening.initial_weights import (
    InitialWeights,
    check_halves,
    check_whole,
    initial_from,
    initial_weights,
    with_vae_of,
)
from magicvideo_jax.experiment.opening.weight_additions import COMMAND_LINE, with_additions
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.models.temporal import MotionNorm
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.parallel.shardings import parameter_shardings
from magicvideo_jax.runtime.compilation import enable_compilation_cache, jit
from magicvideo_jax.sampling.clip_split import NO_SPLIT, SplitConfig, mesh_of
from magicvideo_jax.sampling.decoding import decode_clips
from magicvideo_jax.sampling.free_init import FreeInitConfig
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.published import published_sample
from magicvideo_jax.sampling.step_watch import OnStep, StepWatch
from magicvideo_jax.sampling.windows import ContextConfig
from magicvideo_jax.weights.components import VAE, Weights, component_weights
from magicvideo_jax.weights.fitting import UNetTask, check_task
from magicvideo_jax.weights.locate import EMBEDDED_VIDEO
from magicvideo_jax.weights.motion_weights import has_motion


class Pipeline:
    """Text to clips. Compiles once for each number of frames, of steps, and of clips at once."""

    label, result = "sample", "keyframes"
    """Names of what is done and of what comes of it, as those of a `ClipRefiner`."""

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        load_params: Callable[[], Params],
        tokenizer: CaptionTokenizer | ClassNames,
        mesh: MeshConfig | None = None,
    ):
        """`load_params` puts the parameters on their devices, a `mesh` (None: each for itself): now, and after each
        `release`."""
        self.experiment = experiment
        self._load_params = load_params
        self._params: Params | None = load_params()
        self._tokenizer, self._networks = tokenizer, networks
        self._mesh = mesh or MeshConfig()
        self._generators: dict[tuple[int, int, tuple[int, ...]], Generator] = {}
        self._watch: StepWatch | None = None
        self._decode: Any = None

    def __call__(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        fps: float | None = None,
        frames: int | None = None,
        size: tuple[int, int] | None = None,
        negative_prompt: str = "",
        context: ContextConfig | None = None,
        free_init: FreeInitConfig | None = None,
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """One clip; `size` is its height and width in pixels. What is not given is what the model's config says.

        Errors: `UserError` names the argument.
        """
        given = {
            "steps": steps,
            "guidance": guidance,
            "fps": fps,
            "size": size,
            "context": context,
            "free_init": free_init,
        }
        sample = replace(
            self.experiment.sample,
            **{name: value for name, value in given.items() if value is not None},
        )
        clips = self.many(
            [prompt], sample, seed=seed, frames=frames, negative_prompt=negative_prompt
        )
        return clips[0]

    @property
    def params(self) -> Params:
        """Parameters of the networks, over all devices there are."""
        if self._params is None:
            self._params = self._load_params()
        return self._params

    def release(self) -> None:
        """Let go of the parameters, until the next clip; those of a work folder stay, which holds them itself."""
        self._params = None

    def watch_steps(self, on_step: OnStep) -> None:
        """Call `on_step` before every denoising step from now on; where it returns False, sampling raises
        `SamplingCancelled`."""
        self._watch, self._generators = StepWatch(on_step), {}

    def notes_on(self, *prompts: str) -> tuple[str, ...]:
        """What the command line says of prompts that are longer than the text encoder's tokens."""
        return tuple(filter(None, map(self._tokenizer.note_on, prompts)))

    def decode_in_parts(self, *, frames: int | None = None, tile: int | None = None) -> None:
        """Decode so many frames at once from now on, in tiles of so many latents a side (None: as before)."""
        given = {"frames": frames, "tile": tile}
        decode = replace(
            self.experiment.decode, **{name: n for name, n in given.items() if n is not None}
        )
        self.experiment, self._generators = replace(self.experiment, decode=decode), {}
        self._decode = None

    def decode_with(self, weights: str) -> None:
        """Decode with the VAE of other weights from now on. Errors: `UserError` for one with latents of its own."""
        name = Component.VAE.value
        vae = component_weights(VAE, self.experiment.model.vae, self.params[name])
        here = InitialWeights(Weights({VAE.folder: vae}))
        there = with_vae_of(here, weights, argument="--vae")
        check_halves(there, ("decoder",), f"--vae={weights}")
        model = replace(self.experiment.model, vae=there.parts[Component.VAE].config)
        if model != self.experiment.model:
            self._networks, self._generators, self._decode = Networks(model), {}, None
        self.experiment = replace(self.experiment, model=model)
        networks, load_others = self._networks, self._load_params
        load_vae = partial(_loaded, there, networks, Component.VAE, self._mesh)
        self._load_params = lambda: load_others() | {name: load_vae()}
        self._params = self.params | {name: load_vae()}

    def many(
        self,
        prompts: Sequence[str],
        sample: SampleConfig,
        *,
        fps: Sequence[float] | None = None,
        seed: int = 0,
        frames: int | None = None,
        negative_prompt: str = "",
        batch_size: int = 1,
        start: KnownFrames | EditedClips | PicturePrompts | None = None,
        first_clip: int = 0,
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        """A clip for each prompt, `batch_size` at once; `fps` is a rate for each (None: the sample's for all).

        These may be the clips from number `first_clip` on of a longer request, with the same noise as in it.

        Sampling starts from noise or, with a `start`, also from frames or clips; pictures take the place of prompts.
        Errors: `UserError` for known frames or pictures that the model cannot read.
        """
        if isinstance(start, EditedClips):
            if sample.strength == 0:
                return start.pixels
            start = start if sample.strength < 1 else None
        rates = [sample.fps] * len(prompts) if fps is None else list(fps)
        request = SampleRequest(
            list(prompts), rates, negative_prompt, seed, start, first_clip=first_clip
        )
        generator = self._generator(request, sample, frames, batch_size)
        return generator.generate(self.params, request, sample)

    def latents(
        self,
        request: SampleRequest,
        sample: SampleConfig,
        *,
        frames: int | None = None,
        batch_size: int = 1,
    ) -> Float[np.ndarray, "b t h w c"]:
        """Latents of clips, which `decoded` takes. Errors: those of `many`."""
        generator = self._generator(request, sample, frames, batch_size)
        return generator.latents(self.params, request, sample)

    def decoded(
        self, z: Float[np.ndarray, "b t h w c"], *, batch_size: int = 1
    ) -> UInt8[np.ndarray, "b t h2 w2 3"]:
        """Clips of latents, which may be longer than what is sampled at once."""
        if self._decode is None:
            networks, config = self._networks, self.experiment.decode
            self._decode = jit(lambda params, z: decode_clips(z, networks.decoder(params), config))
        parts = (z[first : first + batch_size] for first in range(0, len(z), batch_size))
        return np.concatenate([np.asarray(self._decode(self.params, part)) for part in parts])

    def _generator(
        self, request: SampleRequest, sample: SampleConfig, frames: int | None, batch_size: int
    ) -> Generator:
        """What samples a request. Errors: `UserError` naming what of the request this model refuses."""
        has_pictures = isinstance(request.clips, PicturePrompts)
        if has_pictures and Component.IMAGE.value not in self.params:
            raise UserError(
                "--variation: this model is not conditioned on pictures: give one that was trained with "
                "config.denoising.image_prompts"
            )
        for i, prompt in enumerate(request.prompts):
            if not prompt.strip() and not has_pictures:
                raise UserError(f"--prompt: prompt {i} is empty: describe what the clip shows")
        for rate in request.fps:
            if not 0 < rate <= 60:
                raise UserError(f"--fps={rate}: give more than 0 and at most 60 frames per second")
        temporal, stage = self.experiment.model.unet.temporal, stage_of(self.experiment)
        knows_frames = isinstance(request.clips, KnownFrames | KnownLatents)
        is_picture = isinstance(request.clips, KnownFrames) and request.clips.are_pictures
        if stage.animates_pictures and not is_picture:
            raise UserError("--image: this model animates a picture: give one, and no --video")
        can_know = stage.animates_pictures or (temporal and temporal.known_frames)
        if knows_frames and not can_know:
            raise UserError(
                "--image, --video: this model cannot be told of frames: give one that was trained with "
                "config.model.unet.temporal.known_frames=True, or edit the video (--strength=0.6)"
            )
        frames = stage.frames(self.experiment) if frames is None else frames
        key = (frames, batch_size, sample.size)
        if key not in self._generators:
            self._generators[key] = stage.clip_generator(
                self.experiment,
                self._networks,
                self._tokenizer,
                frames=frames,
                size=sample.size,
                batch_size=batch_size,
                watch=self._watch,
            )
        with named("--split_"):
            self._generators[key].check_split(sample.split, mesh_of_params(self.params))
        return self._generators[key]


def load(
    path: str | Path = EMBEDDED_VIDEO,
    *,
    vae: str | Path = "",
    unet: str | Path = "",
    motion: str | Path = "",
    motion_norm: MotionNorm | str = MotionNorm.AUTO,
    lora: Sequence[str] = (),
    split: SplitConfig = NO_SPLIT,
) -> Pipeline:
    """A pipeline from a work folder (averaged weights), the name of embedded weights, or weights in any known form.

    Without a path, from `embedded_video`, a small text-to-video model of drawn shapes; `embedded` is the text-to-image
    model that it was made of. What a pipeline samples with is what the config of the run, or the weights, say.
    `vae` is other weights whose VAE decodes, such as a VideoVAE; it also supplies the VAE where `path` has none.
    `unet` is other weights whose U-Net takes the place of that of `path`, with its schedule and its authors' sampler:
    LaVie's base model (`lavie_base.pt`) on Stable Diffusion 1.4.
    `motion` is AnimateDiff's motion modules for image weights of Stable Diffusion 1.x, in any form that holds them;
    their schedule comes with them. `motion_norm` is a value of `MotionNorm`: the same modules give other clips under
    each, and `auto` follows their file. `lora` are LoRA files to add, each `FILE` or `FILE:SCALE`.
    `split` is how several devices share each clip; without it each samples clips of its own.
    Image weights alone make single frames: give motion modules, train, or load a work folder or what was converted of
    one, for clips that move.
    Errors: `UserError` naming the path or what it lacks.
    """
    enable_compilation_cache()
    initial = initial_weights(str(path), argument="--workdir")
    if vae and Component.VAE not in initial.parts:
        initial, vae = with_vae_of(initial, str(vae), argument="--vae"), ""
    is_run = initial.experiment is not None and not (unet or motion)
    weights = with_additions(
        initial.weights,
        COMMAND_LINE,
        unet=str(unet),
        motion=str(motion),
        loras=lora,
        motion_norm=_motion_norm(motion_norm, is_run=is_run),
    )
    initial = initial_from(weights)
    if Component.UNET in initial.parts:
        check_task(initial.parts[Component.UNET].config, UNetTask.GENERATE, f"--workdir={path}")
    with named("--split_"):
        mesh = mesh_of(split, len(jax.devices()))
    pipeline = _load(str(path), initial, split, mesh)
    if vae:
        pipeline.decode_with(str(vae))
    return pipeline


def _load(path: str, initial: InitialWeights, split: SplitConfig, mesh: MeshConfig) -> Pipeline:
    experiment = initial.experiment or usual_experiment(path, initial)
    with named("config.sample."):
        sample = replace(
            experiment.sample, split=split
        )  # that of its training is for other devices
    experiment = replace(experiment, sample=sample)
    stage = stage_of(experiment)
    if stage.reads_captions:
        tokenizer = checked_tokenizer(initial, experiment, path)
    elif (classes := stage.class_names(experiment)) is not None:
        tokenizer = ClassNames(classes.names, argument="--prompt")
    else:
        raise UserError(
            f"{path}: this run trained an auto-encoder, which draws nothing from a prompt"
        )
    networks = Networks(experiment.model)
    load_params = partial(loaded_params, initial, networks, mesh)
    return Pipeline(experiment, networks, load_params, tokenizer, mesh)


def checked_tokenizer(
    initial: InitialWeights, experiment: Experiment, name: str
) -> CaptionTokenizer:
    """The tokenizer of weights. Errors: `UserError` that begins with their `name` where there is none."""
    tokenizer = initial.weights.tokenizer
    if tokenizer is None:
        raise UserError(
            f"{name}: no tokenizer beside the weights; convert them with --tokenizer FOLDER"
        )
    return CaptionTokenizer(tokenizer, length=experiment.model.text.tokens, name_each=True)


def loaded_params(
    initial: InitialWeights, networks: Networks, mesh: MeshConfig | None = None
) -> Params:
    """Parameters of the networks that the weights hold, over all devices there are, as a mesh (None: each for
    itself)."""
    held = [one for one in (*PIPELINE, Component.IMAGE, *FLOW) if one in initial.parts]
    mesh = mesh or MeshConfig()
    return {component.value: _loaded(initial, networks, component, mesh) for component in held}


def _motion_norm(asked: MotionNorm | str, *, is_run: bool) -> MotionNorm:
    """The convention asked for. Errors: `UserError` for an unknown one, or for that of a run."""
    name = f"--motion_norm={asked.value if isinstance(asked, MotionNorm) else asked}"
    try:
        norm = MotionNorm(asked)
    except ValueError:
        names = ", ".join(norm.value for norm in MotionNorm)
        raise UserError(f"{name}: give one of {names}") from None
    if norm is not MotionNorm.AUTO and is_run:
        raise UserError(f"{name}: a work folder says this itself: leave it out")
    return norm


def usual_experiment(path: str, initial: InitialWeights) -> Experiment:
    """The experiment by which weights are sampled: their sizes, and usual settings for the rest.

    Errors: `UserError` for weights that are no whole model of prompts.
    """
    if Component.UNET not in initial.parts:
        raise UserError(f"{path}: holds no U-Net: give weights of a text-to-image or video model")
    check_task(initial.parts[Component.UNET].config, UNetTask.GENERATE, path)
    check_whole(initial, path, vae="give --vae WEIGHTS")
    check_halves(initial, ("decoder",), path)
    unet, vae = (initial.parts[component] for component in (Component.UNET, Component.VAE))
    temporal = unet.config.temporal
    usual = Experiment()
    model = initial.fitted(replace(usual.model, unet=replace(usual.model.unet, temporal=temporal)))
    size = int(vae.json.get("sample_size", 512))
    frames = usual.data.frames if temporal is None else temporal.frames
    if has_motion(unet):
        frames = min(frames, usual.data.frames)
    sample = initial.sample(path) or published_sample(temporal) or usual.sample
    return replace(
        usual,
        stage="image" if temporal is None else "video",
        init_from=path,
        model=model,
        sample=sample,
        data=replace(usual.data, size=size, frames=frames),
    )


def _loaded(
    initial: InitialWeights, networks: Networks, component: Component, mesh: MeshConfig
) -> Params:
    """Parameters of a network over all devices there are."""
    network = networks.by_component[component]
    shardings = parameter_shardings(network.shapes, make_mesh(mesh))
    return initial.load(component, network, shardings, seed=0)[0]
