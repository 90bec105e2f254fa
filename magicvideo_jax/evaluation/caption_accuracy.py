"""Caption accuracy of drawn clips: the fraction whose shape, colour and motion are those of the
caption.

`drawn_reading` recognises them from pixels without a learned model. Clips of `data/drawn/` itself
score at least 99.5 % in each; clips with the caption of another score chance (1/8, 1/8, 1/11).
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
    """Fractions of clips with the right `shape`, `colour` and `motion`, and with `all` of them
    right.

    Single frames have no `motion`, and `all` covers the other two.

    Errors: `UserError` where there are no clips, or not one truth per clip.
    """
    if not clips or len(clips) != len(truths):
        raise UserError(
            f"caption accuracy needs at least one clip and one truth a clip, but there are {len(clips)} clips and "
            f"{len(truths)} truths"
        )
    count = 2 if all(len(clip) == 1 for clip in clips) else 3
    is_right = np.array(
        [
            [a == b for a, b in zip(read_clip(c), t, strict=True)]
            for c, t in zip(clips, truths, strict=True)
        ]
    )
    names = Truth._fields[:count]
    fractions = dict(zip(names, is_right[:, :count].mean(axis=0).tolist(), strict=True))
    return fractions | {"all": float(is_right[:, :count].all(axis=1).mean())}
