"""Types that are shared between rooms.

Axes, in this order everywhere: `b` batch, `t` frame, `h w` space, `c` channel; `l` token, `d`
embedding, `n` head. `time` is diffusion time, never frames. Latents are `z`, pixels `x`, noise
`eps`, text states `text`.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

Params = dict[str, Any]
"""Parameters of a network: nested plain dicts of arrays, keyed by strings."""

Clip = UInt8[np.ndarray, "t h w 3"]
"""One RGB clip on the host."""

Clips = Shaped[np.ndarray, "b t h w c"]
"""A batch of clips on the host, as levels 0..255 of any type."""


class KnownFrames(NamedTuple):
    """Clips of which some frames are known beforehand."""

    pixels: UInt8[Any, "b t h w 3"]
    """Whatever stands where no frame is known is not read."""
    is_known: Bool[Any, "b t"]

    @property
    def are_pictures(self) -> bool:
        """Whether no frame but the first is known."""
        return not self.is_known[:, 1:].any()


class KnownLatents(NamedTuple):
    """The same with the latents that the model has of these frames."""

    z: Float[Any, "b t h w c"]
    is_known: Bool[Any, "b t"]


class EditedClips(NamedTuple):
    """Clips that sampling starts from, instead of noise alone."""

    pixels: UInt8[Any, "b t h w 3"]


class SmallClips(NamedTuple):
    """Clips that are enlarged."""

    pixels: UInt8[Any, "b t h w 3"]
    noise_level: Int[Any, "b"]
    """Level of the noise that is added to them."""
    shares_noise: Bool[Any, "b"]
    """Whether it is the same in all frames."""


class PicturePrompts(NamedTuple):
    """Pictures in place of texts, for clips that are variations of them."""

    pixels: UInt8[Any, "b h w 3"]


class Condition(NamedTuple):
    """Conditioning of a denoiser besides `z_t` and `t`. Every leaf has a leading batch axis."""

    text: Float[Array, "b l d"]
    fps: Float[Array, "b"] | None = None
    given: Float[Array, "b t h w c"] | None = None
    """Channels that the network reads beside `z_t`: latents of known frames, or small pictures."""
    noise_level: Int[Array, "b"] | None = None
    """Time of the noise in `given`, for an upscaler."""
    guidance: Float[Array, "b"] | None = None
    """Scale of guidance, for a network that was distilled with guidance in it."""
    first_frame: Int[Array, "b"] | None = None
    """Number of the first frame of `z_t` in its clip, the same for all; None: 0. Layers with a row for each frame
    read theirs from it."""


class FlowCondition(NamedTuple):
    """Conditioning of a denoiser of flow. Every leaf has a leading batch axis."""

    feature: Float[Array, "b h w c"]
    """Feature of the first frame."""
    vector: Float[Array, "b d"]
    """Vector of the class."""
    has_class: Float[Array, "b"]
    """1, or 0 where the class is ignored."""


@runtime_checkable
class Denoise(Protocol):
    """A denoising network as a function of `z_t`, `t` and its conditioning.

    It predicts eps, x_0 or v, as `NoiseScheduleConfig.prediction_type` says.
    """

    def __call__(
        self, z: Float[Array, "b *axes"], time: Float[Array, "b"], condition: Any, /
    ) -> Float[Array, "b *axes"]: ...
