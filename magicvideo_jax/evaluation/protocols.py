"""Protocols under which published distances were computed, by name.

Numbers compare only where these fields are equal. The fields are what a paper or its code says; where neither does, the
comment says what stands here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from magicvideo_jax.core.checks import at_least
from magicvideo_jax.core.dataclass_dict import to_plain


class Window(Enum):
    """Which frames of a longer real clip are compared. Made clips are compared from their first frame on."""

    RANDOM = "random"
    FIRST = "first"
    MIDDLE = "middle"


class FrameFit(Enum):
    """How frames become squares of the side that I3D takes."""

    TF1_SQUASH = "TF1 bilinear squash"
    HALF_PIXEL_SQUASH = "half-pixel bilinear squash"
    SHORTER_SIDE = "shorter side, half-pixel bilinear, centre crop"


@dataclass(frozen=True)
class EvaluationProtocol:
    """What decides a distance besides the clips and the weights of the network."""

    clips: int = 2048
    """Clips of each set: few clips make every distance larger."""
    frames: int = 16
    stride: int = 1
    """Frames of a real clip from one that is compared to the next."""
    fps: float | None = None
    """Frame rate that the protocol names; None where it is that of the data set."""
    window: Window = Window.RANDOM
    crop: int | None = None
    """Side of the square that is cut from the centre of frames first, or the shorter side where that is less."""
    fit: FrameFit = FrameFit.HALF_PIXEL_SQUASH
    eps: float = 1e-3
    """Summand of the variances in I3D's norms: 1e-3 in the published graph, 1e-5 in ports of it."""
    ddof: int = 1
    """Covariances are over n - ddof."""
    splits: int = 10
    """Parts over which an inception score is averaged."""

    def __post_init__(self) -> None:
        at_least(2, self, "clips")
        at_least(1, self, "frames", "stride", "crop", "splits")

    @property
    def span(self) -> int:
        """Frames of the shortest real clip that can be compared."""
        return (self.frames - 1) * self.stride + 1

    def differences(self, other: "EvaluationProtocol") -> Iterator[str]:
        """Words for every field in which `other` is different: `clips 256 instead of 2048`."""
        for field in fields(self):
            here, there = (to_plain(getattr(one, field.name)) for one in (self, other))
            if here != there:
                yield f"{field.name} {there} instead of {here}"


PROTOCOLS: dict[str, EvaluationProtocol] = {
    # Unterthiner et al. 1812.01717 and its code. The number of clips is not part of it.
    "original": EvaluationProtocol(fit=FrameFit.TF1_SQUASH),
    # Skorokhodov et al. 2112.14683, fvd2048_16f.
    "stylegan_v": EvaluationProtocol(ddof=0),
    # Ge et al. 2204.03638, on square clips. Its I3D adds another eps than the graph that its weights are of.
    "tats": EvaluationProtocol(eps=1e-5),
    # Yan et al. 2104.10157. The number of clips is not part of it.
    "videogpt": EvaluationProtocol(fit=FrameFit.SHORTER_SIDE, eps=1e-5),
    # Blattmann et al. 2304.08818, which does not say how it resizes.
    "video_ldm": EvaluationProtocol(fps=30.0),
    # Wang et al. 2309.15103, with the code of TATS: 100 clips for each class of UCF-101.
    "lavie": EvaluationProtocol(clips=10_100, crop=270, eps=1e-5),
}


def protocol_fields(protocol: EvaluationProtocol) -> dict[str, Any]:
    """The protocol as plain data for JSON."""
    return to_plain(protocol)
