"""The networks of a model as functions of its parameters, and which of the parameters train.

Parameters are one dict: `params[component.value]` are those of a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, Shaped, UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.tree import merge, select_like, split_by_path
from magicvideo_jax.core.types import (
    Condition,
    EditedClips,
    KnownFrames,
    KnownLatents,
    Params,
    PicturePrompts,
    SmallClips,
)
from magicvideo_jax.diffusion.known_frames import known_frame_channels, with_known_frames
from magicvideo_jax.experiment.config import Component, Compute, Experiment, ModelConfig
from magicvideo_jax.models.autoencoder import autoencoder
from magicvideo_jax.models.bind import Network, bind
from magicvideo_jax.models.clip_text import CLIPTextEncoder
from magicvideo_jax.models.discriminator import Discriminator
from magicvideo_jax.models.image_prompt import TO_TEXT, ImagePrompt
from magicvideo_jax.models.lfdm.class_vectors import ClassVectors
from magicvideo_jax.models.lfdm.flow_unet import FlowUNet
from magicvideo_jax.models.lfdm.latent_flow import LatentFlow
from magicvideo_jax.models.pixel_autoencoder import enlarged_latents
from magicvideo_jax.models.unet import UNetConfig, VideoUNet
from magicvideo_jax.models.vae import VAEKind
from magicvideo_jax.models.vgg19 import VGG19
from magicvideo_jax.sampling.decoding import StreamingDecode
from magicvideo_jax.sampling.super_resolution import noisy_pictures
from magicvideo_jax.training.lora import lora_shapes, merge_lora
from magicvideo_jax.training.objectives import DenoisingNetworks
from magicvideo_jax.training.optimizer import Freeze, is_trained

PIPELINE = (Component.UNET, Component.VAE, Component.TEXT)
"""The networks of a pipeline from text to clips."""
FLOW = (Component.LATENT_FLOW, Component.FLOW_UNET, Component.CLASSES)
"""The networks that animate pictures."""


class SampleStart(NamedTuple):
    """What sampling has beside a text and noise."""

    given: Float[Array, "b t h w c"] | None = None
    """Channels that the network reads beside its latents: known frames, or small pictures."""
    noise_level: Int[Array, "b"] | None = None
    """Time of the noise in `given`, for an upscaler."""
    has_known: bool = False
    """Whether `given` are known frames, which the clips shall have."""
    base: Float[Array, "b t h w c"] | None = None
    """Latents that those sampled are added to."""
    text: Float[Array, "b d"] | None = None
    """A state for each clip in place of those of its text."""
    z0: Float[Array, "b t h w c"] | None = None
    """Clean latents to which the first noise is added, of clips that are edited (SDEdit, Meng et al. 2108.01073)."""

    def completed(self, z: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Latents of the clips, from those that are sampled."""
        if self.base is not None:
            return self.base + z
        if self.has_known:
            assert self.given is not None
            return with_known_frames(z, self.given)
        return z


def compute_dtype(model: ModelConfig, platform: str | None = None) -> Any:
    """What networks compute in on a platform; none: on this machine."""
    if model.compute is Compute.AUTO:
        return jnp.float32 if (platform or jax.default_backend()) == "cpu" else jnp.bfloat16
    return jnp.dtype(model.compute.value)


class Networks:
    """U-Net, VAE, text encoder and discriminator, for a platform (none: this machine); `params[component.value]` are
    the parameters of each."""

    def __init__(self, model: ModelConfig, platform: str | None = None):
        self.dtype = dtype = compute_dtype(model, platform)
        self._model = model
        self._unets: dict[UNetConfig, Network] = {}
        self.by_component: dict[Component, Network] = {
            Component.UNET: self._unet(model.unet),
            Component.VAE: bind(lambda keys: autoencoder(model.vae, keys=keys, dtype=dtype)),
            Component.TEXT: bind(lambda keys: CLIPTextEncoder(model.text, keys=keys, dtype=dtype)),
            Component.DISCRIMINATOR: bind(
                lambda keys: Discriminator(model.discriminator, keys=keys, dtype=dtype)
            ),
            Component.TEACHER: self._unet(replace(model.unet, guidance_channels=0)),
        }
        _, self._vae, self._text, self._discriminator, self._teacher = self.by_component.values()
        self.by_component |= self._flow_networks(model)
        image_prompt = model.image_prompt
        if image_prompt is not None:
            self.by_component[Component.IMAGE] = bind(
                lambda keys: ImagePrompt(image_prompt, keys=keys, dtype=dtype)
            )

    def _flow_networks(self, model: ModelConfig) -> dict[Component, Network]:
        """The networks of latent flow diffusion, if the model has any."""
        flow, unet, classes = model.latent_flow, model.flow_unet, model.class_vectors
        dtype = self.dtype
        networks: dict[Component, Network] = {}
        if flow is not None:
            networks[Component.LATENT_FLOW] = bind(
                lambda keys: LatentFlow(flow, keys=keys, dtype=dtype)
            )
            networks[Component.PERCEPTUAL] = bind(lambda keys: VGG19(keys=keys))
        if unet is not None:
            networks[Component.FLOW_UNET] = bind(
                lambda keys: FlowUNet(unet, keys=keys, dtype=dtype)
            )
        if classes is not None:
            networks[Component.CLASSES] = bind(lambda keys: ClassVectors(classes, keys=keys))
        return networks

    def _unet(self, config: UNetConfig) -> Network:
        """The model's U-Net, or one with another configuration that has parameters in common with it."""
        if config not in self._unets:
            self._unets[config] = bind(
                lambda keys: VideoUNet(
                    config,
                    keys=keys,
                    dtype=self.dtype,
                    remat=self._model.remat,
                    text_by_frame=self._model.text_by_frame,
                )
            )
        return self._unets[config]

    def moments(self, params: Params, x: Float[Array, "b t h w 3"]) -> tuple[Array, Array]:
        """Mean and log-variance of the VAE's latents, unscaled."""
        return self._vae.method(lambda vae, *z: vae.encode(*z))(_vae_params(params), x)

    def decode_unscaled(
        self, params: Params, z: Float[Array, "*b h w c"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 3"]:
        """The VAE's latents to pixels in [-1, 1]."""
        return self._vae.method(lambda vae, *z, **how: vae.decode(*z, **how))(
            _vae_params(params), z, as_images=as_images
        )

    def encode(
        self, params: Params, x: Float[Array, "b t h w 3"], key: PRNGKeyArray
    ) -> Float[Array, "b t h2 w2 c"]:
        """Pixels in [-1, 1] to a sample of the diffusion model's latents."""
        mean, log_variance = self.moments(params, x)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        return z * self._model.vae.scaling

    def encode_each(
        self, params: Params, clips: UInt8[Array, "b t h w 3"], keys: Key[Array, "b"]
    ) -> Float[Array, "b t h2 w2 c"]:
        """The same for clips on which new ones depend, each with a key of its own."""

        def encode(clip: Array, key: Array) -> Array:
            return self.encode(params, to_float(clip)[None], subkey(key, "keyframes"))[0]

        return jax.vmap(encode)(clips, keys)

    def start(
        self,
        params: Params,
        clips: KnownFrames | KnownLatents | EditedClips | SmallClips | PicturePrompts,
        keys: Key[Array, "b"],
    ) -> SampleStart:
        """Where sampling starts for clips that have frames or pictures beforehand."""
        if isinstance(clips, PicturePrompts):
            return SampleStart(text=self.encode_picture(params, to_float(clips.pixels)))
        if isinstance(clips, KnownLatents):
            return SampleStart(known_frame_channels(clips.z, clips.is_known), has_known=True)
        if isinstance(clips, SmallClips):
            pictures = noisy_pictures(
                to_float(clips.pixels),
                keys,
                self._model.low_resolution_noise,
                level=clips.noise_level,
                shares_noise=clips.shares_noise,
            )
            base = self.enlarged(to_float(clips.pixels))
            return SampleStart(pictures, clips.noise_level, base=base)
        z = self.encode_each(params, clips.pixels, keys)
        if isinstance(clips, KnownFrames):
            return SampleStart(given=known_frame_channels(z, clips.is_known), has_known=True)
        return SampleStart(z0=z)

    def enlarged(self, pictures: Float[Array, "b t h w 3"]) -> Float[Array, "b t h w c"] | None:
        """Latents that those of an upscaler are added to: in pixel space, those of the small pictures after bicubic
        resizing, so that it learns what they lack; None for a VAE's."""
        vae = self._model.vae
        if vae.kind is not VAEKind.PIXELS:
            return None
        return vae.scaling * enlarged_latents(pictures, vae.factor)

    def decode(
        self, params: Params, z: Float[Array, "*b h w c"], *, as_images: bool = False
    ) -> Float[Array, "*b h2 w2 3"]:
        """The diffusion model's latents to pixels in [-1, 1]."""
        return self.decode_unscaled(params, z / self._model.vae.scaling, as_images=as_images)

    def decoder(self, params: Params, *, is_scaled: bool = True) -> StreamingDecode:
        """Streaming decoder for `decode_clips`: takes and returns the temporal cache."""
        scaling = self._model.vae.scaling if is_scaled else 1.0

        def decode(
            z: Float[Array, "b t h w c"], cache: Any
        ) -> tuple[Float[Array, "b t h2 w2 3"], Any]:
            return self._vae.method(lambda vae, *z: vae.decode_next(*z))(
                _vae_params(params), z / scaling, cache
            )

        return decode

    def encode_text(self, params: Params, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Token ids to text states."""
        return self._text.apply(params[Component.TEXT.value], ids)

    def encode_picture(self, params: Params, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Pictures in [-1, 1] to a text state each."""
        return self.by_component[Component.IMAGE].apply(params[Component.IMAGE.value], x)

    def encode_frame(self, params: Params, batch: Mapping[str, Array]) -> Float[Array, "b d"]:
        """The middle frame of each clip of a batch to a text state; of latents it is decoded."""
        if "pixels" in batch:
            return self.encode_picture(params, to_float(_middle_frame(batch["pixels"])))
        z = _middle_frame(batch["latents"]).astype(jnp.float32)
        return self.encode_picture(params, self.decode(params, z, as_images=True))

    def discriminate(
        self, params: Params, x: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b t2 h2 w2"]:
        """The discriminator's scores of clips."""
        return self._discriminator.apply(params[Component.DISCRIMINATOR.value], x)

    def denoise(
        self,
        params: Params,
        z: Float[Array, "b t h w c"],
        time: Float[Array, "b"],
        condition: Condition,
        *,
        as_images: bool = False,
        attention_window: int | None = None,
    ) -> Float[Array, "b t h w c"]:
        """The U-Net; with `as_images` the image network in it, which has no temporal layers.

        With an `attention_window`, AnimateDiff's motion modules attend in windows of so many frames.
        """
        unet, params = self._unet_and_params(params, as_images, attention_window)
        first = condition.first_frame
        apply = unet.apply if first is None else unet.method(partial(_from_frame, first[0]))
        return apply(params, *_unet_inputs(z, time, condition))

    def denoise_reusing(
        self,
        params: Params,
        z: Float[Array, "b t h w c"],
        time: Float[Array, "b"],
        condition: Condition,
        deep: Float[Array, "b t h w c2"] | None,
        *,
        as_images: bool = False,
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b t h w c2"]]:
        """The U-Net with the deep features of another step (None: its own), and these features."""
        unet, params = self._unet_and_params(params, as_images)
        reusing = unet.method(lambda unet, *inputs: unet.reusing(*inputs))
        return reusing(params, *_unet_inputs(z, time, condition), deep)

    def _unet_and_params(
        self, params: Params, as_images: bool, attention_window: int | None = None
    ) -> tuple[Network, Params]:
        config, unet = self._model.unet, params[Component.UNET.value]
        if as_images:
            network = self._unet(replace(config, temporal=None))
            return network, select_like(unet, network.shapes)
        if attention_window is not None and config.temporal is not None:
            temporal = config.temporal.in_attention_windows(attention_window)
            config = replace(config, temporal=temporal)
        return self._unet(config), unet

    def teach(
        self,
        params: Params,
        z: Float[Array, "b t h w c"],
        time: Float[Array, "b"],
        condition: Condition,
    ) -> Float[Array, "b t h w c"]:
        """The U-Net that a student is distilled from."""
        teacher = params[Component.TEACHER.value]
        return self._teacher.apply(teacher, *_unet_inputs(z, time, condition))

    def denoising_networks(self) -> DenoisingNetworks:
        """The functions that denoising objectives need."""
        return DenoisingNetworks(
            encode=self.encode,
            encode_text=self.encode_text,
            denoise=self.denoise,
            encode_frame=self.encode_frame,
        )

    def latent_shape(
        self, frames: int, height: int, width: int | None = None
    ) -> tuple[int, int, int, int]:
        """(t h w c) of the latents of a clip of so many pixels; without a `width`, a square one."""
        factor, channels = self._model.vae.factor, self._model.vae.latent_channels
        return frames, height // factor, (width or height) // factor, channels

    def shapes(self, components: Sequence[Component]) -> Params:
        """The parameters of some networks, as shapes."""
        return {one.value: self.by_component[one].shapes for one in components}


def _vae_params(params: Params) -> Params:
    """Parameters of the VAE: a tree has no place for pixels, which have none."""
    return params.get(Component.VAE.value, {})


def _middle_frame(clips: Shaped[Array, "b t h w c"]) -> Shaped[Array, "b h w c"]:
    return clips[:, clips.shape[1] // 2]


def _unet_inputs(
    z: Float[Array, "b t h w c"], time: Float[Array, "b"], condition: Condition
) -> tuple[Array | None, ...]:
    """Arguments of a U-Net; what it is given lies beside its latents."""
    text, fps, given, noise_level, guidance, _ = condition
    if given is not None:
        z = jnp.concatenate([z, given.astype(z.dtype)], axis=-1)
    return z, time, text, fps, noise_level, guidance


def _from_frame(first: Int[Array, ""], unet: VideoUNet, *inputs: Any) -> Array:
    return unet.from_frame(first)(*inputs)


def run_shapes(
    networks: Networks, components: Sequence[Component], experiment: Experiment
) -> Params:
    """Shapes of all that a run has of some networks: their parameters, and factors of LoRA beside
    their kernels if these train.

    Errors: `UserError` naming `config.optim.lora.layers` where no layer is among them.
    """
    shapes, optim = networks.shapes(components), experiment.optim
    if optim.freeze is not Freeze.LORA:
        return shapes
    trained = [one.value for one in components if one in experiment.model.trained]
    factors = {name: lora_shapes(shapes[name], optim.lora) for name in trained}
    if not any(factors.values()):
        raise UserError(
            f"config.optim.lora.layers={optim.lora.layers.value}: config.model.trained "
            f"({', '.join(trained)}) has no such layers, so nothing would train; give others"
        )
    return merge(shapes, factors)


def model_params(trained: Params, frozen: Params, experiment: Experiment) -> Params:
    """Parameters of the networks as they sample, from what trains and what is frozen."""
    return merge_lora(merge(trained, frozen), experiment.optim.lora)


def split_trained(params: Params, experiment: Experiment) -> tuple[Params, Params]:
    """Parameters that train, and parameters that are frozen. A discriminator always trains, and of
    an image encoder its map to text states."""
    trained_components = {component.value for component in experiment.model.trained}

    def trains(path: str) -> bool:
        component, _, name = path.partition(".")
        if component == Component.DISCRIMINATOR.value:
            return True
        if component == Component.IMAGE.value:
            return name.startswith(TO_TEXT)
        return component in trained_components and is_trained(experiment.optim.freeze, name)

    return split_by_path(params, trains)
