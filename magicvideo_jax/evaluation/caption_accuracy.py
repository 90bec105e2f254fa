"""Does a clip show what its caption says? The share of clips whose shape, colour and motion are read back from pixels.

A metric of drawn shapes alone: what is right is known, and `drawn_reading` reads it without a learned judge. Real
clips of `data/drawn/` score at least 99.5 % in each; clips under another's caption score chance
(1/8, 1/8, 1/11).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn.scene import Truth
from magicvideo_jax.evaluation.drawn_reading import read_clip


def caption_accuracy(
    clips: Sequence[UInt8[np.ndarray, "t h w c"]], truths: Sequence[Truth]
) -> dict[str, float]:
    """Shares of clips with the right shape, colour and motion, and with all of them right. Of single frames the motion
    is not asked.

    Errors: `UserError` where there is no clip, or not one truth for each.
    """
    if not clips or len(clips) != len(truths):
        raise UserError(
            f"caption accuracy needs one truth a clip and at least one clip: {len(clips)} and {len(truths)}"
        )
    parts = 2 if all(len(clip) == 1 for clip in clips) else 3
    right = np.array(
        [
            [a == b for a, b in zip(read_clip(c), t, strict=True)]
            for c, t in zip(clips, truths, strict=True)
        ]
    )
    names = Truth._fields[:parts]
    shares = dict(zip(names, right[:, :parts].mean(axis=0).tolist(), strict=True))
    return shares | {"all": float(right[:, :parts].all(axis=1).mean())}
