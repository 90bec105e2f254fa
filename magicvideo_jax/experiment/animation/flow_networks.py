"""The networks of latent flow diffusion as functions of all parameters.

Clips and pictures are in [0, 1]. Frames of clips are a batch for the auto-encoder, which sees each
by itself beside the clip's first frame.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from magicvideo_jax.core.pixels import to_unit
from magicvideo_jax.core.types import FlowCondition, Params
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.models.lfdm.flow_sampling import pixel_grid
from magicvideo_jax.models.lfdm.latent_flow import LatentFlow
from magicvideo_jax.training.flow_diffusion_objective import (
    FlowDiffusionConfig,
    FlowDiffusionNetworks,
)
from magicvideo_jax.training.latent_flow_objective import LatentFlowNetworks

_FLOW = Component.LATENT_FLOW.value

AS_PUBLISHED = FlowDiffusionConfig()
"""Latents of flow itself, not of its residual."""

_Frames = Float[Array, "b t h w 3"]


class FlowNetworks:
    """Auto-encoder of flow, U-Net and class vectors of a model."""

    def __init__(self, networks: Networks, config: FlowDiffusionConfig = AS_PUBLISHED):
        self._by_component = networks.by_component
        self._scale = config.residual_scale
        latent_flow = networks.by_component[Component.LATENT_FLOW]
        self._flow = latent_flow.method(LatentFlow.clip_flow)
        self._feature = latent_flow.method(LatentFlow.feature)
        self._decode = latent_flow.method(LatentFlow.decode_clip)
        self._train = latent_flow.method(LatentFlow.train_on)

    def flow_latents(self, params: Params, clips: _Frames) -> Float[Array, "b t h2 w2 3"]:
        """Clean latents of the diffusion model: flow and occlusion of each frame, from the first."""
        flow, occlusion = self._flow(params[_FLOW], clips)
        if self._scale is not None:
            flow = self._scale * (flow - _identity(flow))
        return jnp.concatenate([flow, 2 * occlusion - 1], axis=-1)

    def feature(
        self, params: Params, pictures: Float[Array, "b h w 3"]
    ) -> Float[Array, "b h2 w2 c"]:
        """What the diffusion model is given of a picture."""
        return self._feature(params[_FLOW], pictures)

    def decode(
        self, params: Params, pictures: Float[Array, "b h w 3"], z0: Float[Array, "b t h2 w2 3"]
    ) -> tuple[_Frames, _Frames]:
        """Clips of latents that begin with pictures, and the warped pictures alone."""
        flow, occlusion = z0[..., :2], (z0[..., 2:] + 1) / 2
        if self._scale is not None:
            flow = flow / self._scale + _identity(flow)
        return self._decode(params[_FLOW], pictures, flow, occlusion)

    def vectors(self, params: Params, ids: Int[Array, "b"]) -> Float[Array, "b d"]:
        """Vectors of classes."""
        name = Component.CLASSES
        return self._by_component[name].apply(params[name.value], ids)

    def condition(
        self, params: Params, feature: Float[Array, "b h w c"], ids: Int[Array, "b 1"]
    ) -> FlowCondition:
        """Condition of pictures' features and classes, of which there may be none."""
        has_class = (ids[:, 0] >= 0).astype(jnp.float32)
        return FlowCondition(feature, self.vectors(params, ids[:, 0]), has_class)

    def denoise(
        self,
        params: Params,
        z: Float[Array, "b t h w 3"],
        time: Float[Array, "b"],
        condition: FlowCondition,
        *,
        as_images: bool = False,
    ) -> Float[Array, "b t h w 3"]:
        """The U-Net."""
        assert not as_images
        name = Component.FLOW_UNET
        return self._by_component[name].apply(params[name.value], z, time, *condition)

    def precompute(
        self, params: Params, pixels: UInt8[Array, "b t h w 3"], key: PRNGKeyArray
    ) -> dict[str, Array]:
        """What the diffusion's objective reads of clips: their flow, and the pixels of their first frames."""
        del key
        flow = self.flow_latents(params, to_unit(pixels))
        return {"flow": flow.astype(jnp.float16), "pixels": pixels[:, :1]}

    def training_networks(self, *, with_features: bool) -> LatentFlowNetworks:
        """The functions that the auto-encoder's objective needs."""

        def features(params: Params, pictures: Float[Array, "b h w 3"]) -> list[Array]:
            name = Component.PERCEPTUAL
            return self._by_component[name].apply(params[name.value], pictures)

        return LatentFlowNetworks(
            lambda params, *pictures: self._train(params[_FLOW], *pictures),
            features if with_features else None,
            _FLOW,
        )

    def diffusion_networks(self) -> FlowDiffusionNetworks:
        """The functions that the diffusion's objective needs."""
        return FlowDiffusionNetworks(
            self.flow_latents,
            self.feature,
            self.condition,
            self.denoise,
        )


def _identity(flow: Float[Array, "b t h w 2"]) -> Float[Array, "1 1 h w 2"]:
    """The positions of the pixels themselves."""
    h, w = flow.shape[2:4]
    return pixel_grid(h, w, flow.dtype)[None, None]
