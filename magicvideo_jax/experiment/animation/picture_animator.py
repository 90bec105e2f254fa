"""Pictures to clips with the networks of latent flow diffusion: what `sample`, previews and metrics
share."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.core.checks import FieldError, refused
from magicvideo_jax.core.pixels import from_unit, to_unit
from magicvideo_jax.core.types import KnownFrames, Params
from magicvideo_jax.experiment.animation.flow_networks import FlowNetworks
from magicvideo_jax.experiment.generator import Generator, check_sides
from magicvideo_jax.models.lfdm.flow_unet import FLOW_CHANNELS
from magicvideo_jax.sampling.clip_split import SplitConfig, SplitKind, split_on
from magicvideo_jax.sampling.flow_clips import sample_flow
from magicvideo_jax.sampling.keyframes import SampleConfig, SamplerInputs


class PictureAnimator(Generator):
    """A `Generator` of clips that begin with given pictures.

    Requests have `KnownFrames`, of which it reads the first frame, and prompts that are names of classes. A negative
    prompt is one, too, or empty: no class.
    """

    def _latent_shape(self, size: tuple[int, ...]) -> tuple[int, int, int, int]:
        config, unet = self._experiment.model.latent_flow, self._experiment.model.flow_unet
        assert config is not None
        assert unet is not None
        multiple = max(config.side_multiple, config.flow_factor * unet.side_multiple)
        check_sides(size, multiple, "which its networks halve")
        height, width = (side // config.flow_factor for side in size)
        return self._frames, height, width, FLOW_CHANNELS

    def settings(
        self, sample: SampleConfig | None = None, mesh: Mesh | AbstractMesh | None = None
    ) -> SamplerInputs:
        """The last argument of a program. Errors: also `FieldError` for settings that flow has no use for."""
        asked = sample or self._experiment.sample
        unused = {
            "context_frames": asked.context.frames is not None,
            "free_init": asked.free_init.iterations > 1,
            "feature_cache": asked.feature_cache > 1,
        }
        for name in (name for name, is_given in unused.items() if is_given):
            raise FieldError(f"{name}: this model samples the flow of a whole clip; leave it out")
        return super().settings(sample, mesh)

    def check_split(self, config: SplitConfig, mesh: Mesh | AbstractMesh | None) -> None:
        """Refuse to split a clip. Errors: `FieldError`."""
        if split_on(config, mesh).by is not SplitKind.NONE:
            raise refused(
                config, "by", "give none: flow is small, and devices take clips of their own"
            )

    def _run(
        self,
        decodes: bool,
        mesh: Mesh | None,
        params: Params,
        ids: jax.Array,
        null_ids: jax.Array,
        fps: jax.Array,
        keys: jax.Array,
        clips: Any,
        sampler: SamplerInputs,
    ) -> jax.Array:
        del fps, mesh
        assert isinstance(clips, KnownFrames)
        networks = FlowNetworks(self._networks, self._experiment.flow_diffusion)
        pictures = to_unit(clips.pixels[:, 0])
        feature = networks.feature(params, pictures)
        z = sample_flow(
            params,
            networks.condition(params, feature, ids),
            networks.condition(params, feature, jnp.broadcast_to(null_ids, ids.shape)),
            keys,
            denoise=networks.denoise,
            sampler=sampler,
            shape=self.latent_shape,
            goes_on=None if self._watch is None else self._watch.goes_on,
        )
        if not decodes:
            return z
        return from_unit(networks.decode(params, pictures, z)[0])
