"""What a page must know of a model before it is asked for a clip, as plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """Usual settings of a model, and prompts to try."""

    frames: int
    most_frames: int | None
    """Frames that its temporal layers know; None: any number."""
    size: tuple[int, ...]
    """Height and width in pixels."""
    fps: float
    steps: int
    guidance: float
    sampler: str
    moves: bool
    """Whether it makes clips; else still pictures."""
    takes_motion: bool
    """Whether motion modules can be put into it."""
    prompts: tuple[str, ...]
