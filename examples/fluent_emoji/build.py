"""Microsoft's Fluent animations (MIT) as captioned clips, and the still ones as captioned pictures.

    python examples/fluent_emoji/build.py --out=emoji [--few]

downloads them with `npm pack` (about 730 MB, kept in OUT/npm), lays each over plain backgrounds, and writes

    OUT/clips/*.apng, OUT/clips.csv         734 animations, lossless
    OUT/sprites/*.png, OUT/sprites.csv      1,854 pictures

for `prepare`. With --few only twenty of them, which a small model learns in minutes.
"""

import argparse
import csv
import io
import itertools
import json
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageSequence

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.runtime.progress import Progress

ANIMATED = [f"@lobehub/fluent-emoji-anim-{i}@1.0.0" for i in range(1, 5)]
STILL, NAMES = "@lobehub/fluent-emoji-3d@1.1.0", "unicode-emoji-json@0.9.0"
BACKGROUNDS = {
    "black": (24, 24, 30),
    "dark blue": (28, 44, 92),
    "dark green": (24, 66, 48),
    "purple": (74, 44, 96),
    "brown": (88, 60, 44),
    "grey": (112, 116, 122),
    "pale blue": (176, 208, 232),
    "white": (250, 250, 250),
}
FEW = """alarm clock, birthday cake, bus, butterfly, fire, flying saucer, helicopter, hot beverage, octopus, penguin,
rainbow, rocket, sailboat, snail, snowman, star, sun with face, tropical fish, turtle, umbrella""".replace(
    "\n", " "
)
SIDE, SPRITE = 64, 56
"""Width and height in pixels of a picture, and of the emoji in it."""


def main() -> None:
    asked = arguments()
    downloads = fetch(asked.out / "npm")
    names = names_by_character(downloads[NAMES])
    chosen = set(FEW.split(", ")) if asked.few else None
    for kind, packages, ending, write in (
        ("clips", ANIMATED, "apng", write_clip),
        ("sprites", [STILL], "png", write_sprite),
    ):
        with Rows(asked.out / f"{kind}.csv") as rows:
            pictures = (named_pictures(downloads[package], names, chosen) for package in packages)
            for name, file in itertools.chain.from_iterable(pictures):
                for tone in tones_of(name, asked.tones):
                    path = asked.out / kind / f"{slug(name)}-{slug(tone)}.{ending}"
                    write(file, BACKGROUNDS[tone], path)
                    rows.add(path.name, name, tone)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder for everything")
    parser.add_argument("--few", action="store_true", help="twenty animations only")
    parser.add_argument("--tones", type=int, default=4, help="backgrounds per emoji, at most 8")
    asked = parser.parse_args()
    if not 1 <= asked.tones <= len(BACKGROUNDS):
        parser.error(f"--tones={asked.tones}: give 1 to {len(BACKGROUNDS)}")
    asked.out = local_path(asked.out, argument="--out")
    for folder in ("npm", "clips", "sprites"):
        (asked.out / folder).mkdir(parents=True, exist_ok=True)
    return asked


def fetch(folder: Path) -> dict[str, Path]:
    """Download the packages as archives, by name; archives that are there are kept."""
    if shutil.which("npm") is None:
        raise UserError("npm is not installed: install it, it downloads the packages")
    found = {}
    for package in (*ANIMATED, STILL, NAMES):
        name, version = package.rsplit("@", 1)
        found[package] = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
        if not found[package].is_file():
            print(f"fetching {package}", flush=True)
            command = ["npm", "pack", "--silent", package]
            if subprocess.run(
                command, cwd=folder, check=False, stdout=subprocess.DEVNULL
            ).returncode:
                raise UserError(
                    f"npm cannot download {package} (its message is above): run the same command again"
                )
    return found


def names_by_character(archive: Path) -> dict[str, str]:
    """Unicode's name of each emoji."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile("package/data-by-emoji.json")
        assert file is not None
        entries = json.load(file)
    return {without_variation(character): entry["name"] for character, entry in entries.items()}


def named_pictures(
    archive: Path, names: dict[str, str], chosen: set[str] | None
) -> Iterator[tuple[str, io.BytesIO]]:
    """Name and content of each picture whose file name spells an emoji without a skin tone."""
    with tarfile.open(archive) as tar:
        members = sorted(
            (member for member in tar if member.name.endswith(".webp")),
            key=lambda member: member.name,
        )
        with Progress(len(members), archive.stem, unit="file") as progress:
            for member in members:
                name = names.get(character_of(Path(member.name).stem))
                if name is not None and (chosen is None or name in chosen):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, io.BytesIO(file.read())
                progress.advance()


def character_of(stem: str) -> str:
    """The emoji that a file name spells in code points, as `1f431-200d-1f464`; else an empty text."""
    if not re.fullmatch(r"[0-9a-f]{1,5}(-[0-9a-f]{1,5})*", stem):
        return ""
    return without_variation("".join(chr(int(point, 16)) for point in stem.split("-")))


def without_variation(character: str) -> str:
    return character.replace("\N{VARIATION SELECTOR-16}", "")


def tones_of(name: str, number: int) -> Sequence[str]:
    """Names of an emoji's backgrounds, chosen by a checksum of its name."""
    every = list(BACKGROUNDS)
    first = zlib.crc32(name.encode()) % len(every)
    return [every[(first + 3 * i) % len(every)] for i in range(number)]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def over(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """A picture in the middle of a plain background."""
    canvas = Image.new("RGBA", (SIDE, SIDE), (*background, 255))
    small = picture.convert("RGBA").resize((SPRITE, SPRITE), Image.Resampling.BOX)
    canvas.alpha_composite(small, ((SIDE - SPRITE) // 2,) * 2)
    return canvas.convert("RGB")


def write_sprite(file: io.BytesIO, background: tuple[int, int, int], path: Path) -> None:
    with Image.open(file, formats=["WEBP"]) as picture:
        over(picture, background).save(path)


def write_clip(file: io.BytesIO, background: tuple[int, int, int], path: Path) -> None:
    """Write all frames of an animation with their durations."""
    with Image.open(file, formats=["WEBP"]) as animation:
        shown = [
            (over(frame, background), frame.info["duration"])
            for frame in ImageSequence.Iterator(animation)
        ]
    frames, milliseconds = zip(*shown, strict=True)
    frames[0].save(
        path,
        format="PNG",
        save_all=True,
        append_images=frames[1:],
        duration=list(milliseconds),
        loop=0,
    )


class Rows:
    """A caption table with two rows per clip: its name, and its name with the background."""

    def __init__(self, path: Path):
        self._file = path.open("w", newline="", encoding="utf-8")
        self._table = csv.writer(self._file)
        self._table.writerow(["video", "caption"])

    def add(self, file: str, name: str, tone: str) -> None:
        self._table.writerow([file, name])
        self._table.writerow([file, f"{name} on a {tone} background"])

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


if __name__ == "__main__":
    exit_with(main)
