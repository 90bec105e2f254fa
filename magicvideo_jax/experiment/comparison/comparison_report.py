"""What a comparison of sets of clips says: the lines for a terminal, and the same for JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from magicvideo_jax.evaluation.feature_metrics import Measured
from magicvideo_jax.evaluation.protocols import EvaluationProtocol, protocol_fields

ENOUGH_CLIPS = 2048
"""Clips below which a distance is called mostly bias."""


class RealSide(NamedTuple):
    """A real set in words, and how many clips of it are compared."""

    words: str
    clips: int


@dataclass(frozen=True)
class Comparison:
    """A number with everything that it depends on."""

    name: str
    measured: Measured
    made: str
    """The made clips in words: how many, their size, where they are from."""
    made_clips: int
    real: RealSide | None
    """The real clips; None for a score of made clips alone."""
    network: str
    fingerprint: str
    protocol_name: str
    protocol: EvaluationProtocol
    departures: tuple[str, ...]
    """How the comparison differs from the named protocol."""
    is_distance: bool

    def lines(self) -> Iterator[str]:
        """The number, and beside it what it depends on."""
        real = "" if self.real is None else f" / {self.real.words}"
        yield f"{self.name:<14} {self.measured.value:8.3f}  {self.made}{real}"
        yield f"  {self.network}, float32 products"
        protocol = f"  protocol {self.protocol_name}: {self.protocol.frames} frames"
        if self.is_distance:
            over = "N" if self.protocol.ddof == 0 else f"N - {self.protocol.ddof}"
            protocol += f", stride {self.protocol.stride}, covariances over {over}"
        yield protocol
        if self.departures:
            yield f"  other than {self.protocol_name}: {'; '.join(self.departures)}"
        for name, value in self.measured.beside.items():
            yield f"  {name.replace('_', ' '):<16} {value:8.3f}"
        for number, value in self.measured.curve.items():
            yield f"  {f'of {number} clips':<16} {value:8.3f}"
        if self.is_distance and self.made_clips < ENOUGH_CLIPS:
            yield (
                f"  of fewer than {ENOUGH_CLIPS} clips: mostly bias where clips are few; compare with "
                "equal numbers alone"
            )

    def plain(self) -> dict[str, Any]:
        """The same as data for JSON."""
        return {
            "value": self.measured.value,
            **self.measured.beside,
            "curve": {str(number): value for number, value in self.measured.curve.items()},
            "made_set": {"clips": self.made_clips, "words": self.made},
            "real_set": None if self.real is None else self.real._asdict(),
            "network": self.network,
            "fingerprint": self.fingerprint,
            "protocol": {"name": self.protocol_name, **protocol_fields(self.protocol)},
            "departures": list(self.departures),
        }
