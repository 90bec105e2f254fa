"""What networks share that take clips and return clips: weights, prompts, batches."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Array, Key, UInt8

from magicvideo_jax.core.types import Clip, KnownFrames, Params, SmallClips
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.networks import Networks, SampleStart
from magicvideo_jax.experiment.opening.initial_weights import InitialWeights, check_whole
from magicvideo_jax.experiment.pipeline import checked_tokenizer, loaded_params
from magicvideo_jax.runtime.compilation import enable_compilation_cache
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.sampling.step_watch import OnStep, StepWatch


class ClipRefiner:
    """Base class. A refiner is its settings, and what its network is given of a clip."""

    sample: SampleConfig
    """Settings of the authors."""
    label: str
    """Name of what is done, for progress and messages."""
    result: str
    """Name of what comes of it, for files."""
    negative_prompt: str
    """Prompt from which guidance leads away: what captions were dropped to in training, or better."""
    prompt_suffix = ""
    """What the authors append to every prompt."""
    frame_rate_ratio = 1
    """Frame rate of the result over that of its source."""

    def __init__(self, initial: InitialWeights, name: str):
        """Nothing is read before the first clip. `name` of the weights begins the messages.

        Errors: `UserError` for weights that are not whole.
        """
        enable_compilation_cache()
        check_whole(initial, name, vae="give weights that hold one")
        usual, unet = Experiment(), initial.parts[Component.UNET].config
        model = replace(usual.model, unet=replace(usual.model.unet, temporal=unet.temporal))
        self.experiment = replace(usual, model=initial.fitted(model), sample=self.sample)
        self._tokenize: CaptionTokenizer = checked_tokenizer(initial, self.experiment, name)
        self.networks, self._initial = Networks(self.experiment.model), initial
        self._generators: dict[tuple[int, ...], Generator] = {}
        self._watch: StepWatch | None = None

    @cached_property
    def params(self) -> Params:
        """Parameters of the networks, over all devices there are."""
        return loaded_params(self._initial, self.networks)

    def watch_steps(self, on_step: OnStep) -> None:
        """See `Pipeline.watch_steps`. A clip that is refined in parts counts the steps of each anew."""
        self._watch, self._generators = StepWatch(on_step), {}

    def notes_on(self, prompt: str) -> tuple[str, ...]:
        """See `Pipeline.notes_on`."""
        note = self._tokenize.note_on(f"{prompt}{self.prompt_suffix}")
        return (note,) if note else ()

    def __call__(
        self,
        clip: Clip,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> UInt8[np.ndarray, "t2 h2 w2 3"]:
        """Refine one clip that shows what a prompt says."""
        given = {"steps": steps, "guidance": guidance}
        given = {name: value for name, value in given.items() if value is not None}
        sample = replace(self.sample, **given)
        return self.many(clip[None], [prompt], seed=seed, sample=sample)[0]

    def many(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"],
        prompts: Sequence[str],
        *,
        seed: int = 0,
        sample: SampleConfig | None = None,
    ) -> UInt8[np.ndarray, "b t2 h2 w2 3"]:
        """Refine clips, one on each device at a time, with a prompt for each."""
        parts = self.parts(clips, prompts, seed=seed, sample=sample or self.sample)
        return np.concatenate([*parts], axis=1)

    def parts(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"],
        prompts: Sequence[str],
        *,
        seed: int,
        sample: SampleConfig,
    ) -> Iterator[UInt8[np.ndarray, "b k h2 w2 3"]]:
        """The same in parts of a few frames of all clips, each sampled when it is asked for."""
        raise NotImplementedError

    def result_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Frames, height and width of what becomes of a clip. Errors: `UserError` for a clip that is too short."""
        raise NotImplementedError

    def starts(self, params: Params, clips: Any, keys: Key[Array, "b"]) -> SampleStart:
        """Channels that the network reads beside its latents, and the level of their noise."""
        return self.networks.start(params, clips, keys)

    def refine_at_once(
        self,
        clips: UInt8[np.ndarray, "b t h w 3"] | KnownFrames | SmallClips,
        prompts: Sequence[str],
        *,
        frames: int,
        size: tuple[int, int],
        seed: int,
        sample: SampleConfig | None,
        purpose: str = "clip",
        batch_size: int = 1,
    ) -> UInt8[np.ndarray, "b t2 h2 w2 3"]:
        """Clips of so many `frames` and pixels in one run of the sampler; noise is named by `purpose`."""
        key = (frames, *size, batch_size)
        if key not in self._generators:
            self._generators[key] = Generator(
                self.experiment,
                self.networks,
                self._tokenize,
                frames=frames,
                size=size,
                batch_size=batch_size,
                starts=self.starts,
                watch=self._watch,
            )
        request = SampleRequest(
            prompts=[f"{prompt}{self.prompt_suffix}" for prompt in prompts],
            fps=[(sample or self.sample).fps] * len(prompts),
            negative=self.negative_prompt,
            seed=seed,
            clips=clips,
            purpose=purpose,
        )
        generator = self._generators[key]
        return generator.generate(self.params, request, sample, label=self.label)

    def release(self) -> None:
        """Let go of the parameters, until the next clip; those of a work folder stay, which holds them itself."""
        self.__dict__.pop("params", None)
