"""The temporal layers of a `TemporalConfig`, and their places: the list in which MagicVideo, LaVie,
AnimateDiff and Latent-Shift differ.
"""

from magicvideo_jax.models.frame_layers import (
    FirstAndPreviousFrame,
    FrameAdaptor,
    TemporalShift,
)
from magicvideo_jax.models.motion_module import MotionModule
from magicvideo_jax.models.temporal import TemporalConfig, TemporalMixing
from magicvideo_jax.models.temporal_attention import TemporalAttention
from magicvideo_jax.models.temporal_places import Place, Site, TemporalLayer
from magicvideo_jax.models.temporal_resnet import TemporalResnet, TemporalResnetPair

_ATTENTION = {
    TemporalMixing.PARALLEL: Place.BESIDE_TRANSFORMER,
    TemporalMixing.SEQUENTIAL: Place.TRANSFORMER_OUTPUT,
    TemporalMixing.LAVIE: Place.CROSS_ATTENTION,
    TemporalMixing.AFTER_FEED_FORWARD: Place.FEED_FORWARD,
}

_SHIFT = {
    TemporalMixing.SHIFT: Place.SECOND_CONV,
    TemporalMixing.SHIFT_AT_START: Place.RESNET_INPUT,
}


def temporal_layers(config: TemporalConfig | None) -> tuple[TemporalLayer, ...]:
    """List the layers of a video network; none for an image network."""
    if config is None:
        return ()
    layers: list[TemporalLayer] = []

    def adaptor(site: Site) -> FrameAdaptor:
        return FrameAdaptor(config.frames, site.channels)

    def attention(site: Site) -> TemporalAttention:
        return TemporalAttention(config, site.channels, heads=site.heads, keys=site.keys)

    if config.adaptors:
        layers += [
            TemporalLayer(Place.FIRST_CONV, "adaptor1", adaptor),
            TemporalLayer(Place.SECOND_CONV, "adaptor2", adaptor),
            TemporalLayer(Place.SELF_ATTENTION, "adaptor", adaptor),
        ]
    if config.mixing in _ATTENTION:
        layers.append(TemporalLayer(_ATTENTION[config.mixing], "temporal", attention))
    if config.mixing in _SHIFT:
        layers.append(TemporalLayer(_SHIFT[config.mixing], "shift", lambda site: TemporalShift()))
    if config.first_and_previous:
        layers.append(
            TemporalLayer(Place.SELF_ATTENTION_KEYS, "frames", lambda site: FirstAndPreviousFrame())
        )
    if config.residual_blocks:
        layers += [
            TemporalLayer(Place.TRANSFORMER_INPUT, "temporal_resnet", _resnet),
            TemporalLayer(Place.LEVEL, "temporal_block", TemporalResnetPair),
        ]
    motion = config.motion
    if motion is not None:

        def module(site: Site) -> MotionModule:
            return MotionModule(motion, site, frames=config.frames)

        layers.append(TemporalLayer(Place.BLOCK, "motion_module", module))
        if motion.in_middle:
            layers.append(TemporalLayer(Place.MIDDLE_BLOCK, "motion_module", module))
    return tuple(layers)


def _resnet(site: Site) -> TemporalResnet:
    """The residual block over frames in front of a transformer, which does not hear the time."""
    return TemporalResnet(site, frames=3, hears_time=False)
