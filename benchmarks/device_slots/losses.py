"""Whether all variants of the training step compute the same: speed that computes something else is none."""

import math
from collections.abc import Sequence

from device_slots.slot import Line

MOST_DIFFERENCE = 1e-2


def compare_losses(lines: Sequence[Line]) -> Line:
    """Losses after three steps of all variants, grouped by clips a step; variants of a group begin with equal states
    and batches. `agree` is None where no two variants can be compared."""
    groups: dict[int, dict[str, float]] = {}
    for line in lines:
        if "losses" in line and "clips" in line:
            groups.setdefault(line["clips"], {})[line["slot"]] = line["losses"][-1]
    compared = [group for group in groups.values() if len(group) > 1]
    return {
        "slot": "losses",
        "after_three_steps": {str(clips): group for clips, group in sorted(groups.items())},
        "agree": all(map(_agree, compared)) if compared else None,
    }


def _agree(group: dict[str, float]) -> bool:
    losses = group.values()
    return all(map(math.isfinite, losses)) and max(losses) - min(losses) <= MOST_DIFFERENCE * abs(
        max(losses)
    )
