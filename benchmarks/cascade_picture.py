"""The README's picture of a cascade, from what `sample --keep=DIR` keeps of its stages.

python benchmarks/cascade_picture.py --keep DIR --prompt "a red heart moving left" --out docs/cascade.png

Three rows: four keyframes, the second of them with the three frames that are inserted after it, and the four keyframes
with four times the height and width.
"""

import argparse
from pathlib import Path

import av
import numpy as np

from magicvideo_jax.media.contact_sheet import contact_sheet, save_sheet
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.sampling.interpolation import FRAMES_PER_KEYFRAME

SIDE = 256
KEYFRAMES = np.array([1, 5, 9, 13])


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--out", required=True)
    asked = parser.parse_args()
    exit_with(lambda: draw(Path(asked.keep), asked.prompt, asked.out))


def draw(kept: Path, prompt: str, out: str) -> None:
    """The three rows of a clip whose stages are kept."""
    names = ("0_keyframes", "1_interpolated", "2_upscaled")
    keyframes, between, large = (frames_of(kept / f"{name}.mp4") for name in names)
    second = KEYFRAMES[1] * FRAMES_PER_KEYFRAME
    rows = {
        f"{prompt}: {size(keyframes)}": keyframes[KEYFRAMES],
        f"{size(between)}, three of them between any two keyframes": between[
            second : second + FRAMES_PER_KEYFRAME
        ],
        size(large): large[KEYFRAMES * FRAMES_PER_KEYFRAME],
    }
    sheet = contact_sheet(list(rows.values()), list(rows), columns=len(KEYFRAMES), side=SIDE)
    save_sheet(sheet, out)


def frames_of(path: Path) -> np.ndarray:
    """All frames of a clip."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def size(clip: np.ndarray) -> str:
    """Number and size of a clip's frames."""
    t, h, w, _ = clip.shape
    return f"{t} frames of {w} x {h}"


if __name__ == "__main__":
    main()
