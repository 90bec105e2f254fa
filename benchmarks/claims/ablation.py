"""An ablation as data: a config, what is changed in it, and the weights that it begins with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

REPORTED_SCENES = 2101
"""Seed of the held-out scenes that are reported; nothing was chosen on them."""

Reading = Callable[[Path], dict[str, float]]
"""What is measured of a finished run, given its work folder, beside the scores that the run writes."""


@dataclass(frozen=True)
class Ablation:
    """A kind of run."""

    name: str
    sentence: str
    """What differs from the reference, for the table."""
    config: str = "t2v"
    """A file of `configs/`, with a preset after a colon."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Config fields by dotted path. `{name}` in a text is the folder of another ablation's run of the same seed, or of
    weights that `stand_ins.py` writes."""
    length: float = 1.0
    """Steps as a fraction of those of the reference."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """More measurements by the names of their files, without .json."""
    is_reported: bool = True
    """Whether it has a row in the table, or only prepares another one."""
    has_own_latents: bool = False
    """Whether its held-out loss is of other latents, and not comparable."""

    @property
    def names_of_others(self) -> Iterator[str]:
        """What its changes refer to."""
        for value in self.changes.values():
            if isinstance(value, str):
                yield from (name for _, name, _, _ in Formatter().parse(value) if name)

    def changes_with(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """The changes with folders in the place of names."""
        texts = {name: str(folder) for name, folder in folders.items()}
        return {
            path: value.format_map(texts) if isinstance(value, str) else value
            for path, value in self.changes.items()
        }
