"""The checkout whose files tests read and whose commands they run."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
