"""Commands, programs and links in README.md and docs/, and how each is tested.

Every command is run by the first rule of `RULES` that matches it; a new kind of command needs a new
rule. Commands run as they are written, in a scratch folder that looks like a checkout. `STAND_INS`
replaces placeholders such as DIR, `MADE_BY` and `FILES` make what a command reads, and `SMALL`
scales training down by config fields alone. What needs a cloud, root or days runs with --dry-run,
--quick or --help, or only the files that it names are checked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from checkout import ROOT

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
"""Documents whose commands and programs are run."""
LINKED = (
    *DOCUMENTS,
    ROOT / "CHANGELOG.md",
    ROOT / "magicvideo_jax/embedded/MODEL_CARD.md",
    ROOT / "examples/fluent_emoji/README.md",
)
"""Documents whose links and file names are followed."""


class How(Enum):
    """How a command is run."""

    VERB = "in this process, with more arguments"
    HELP = "with --help instead of its arguments"
    DRY_RUN = "with --dry-run after its program"
    NAMED_FILES = "not at all: the files that it names are in the checkout"
    REQUIREMENTS = "not at all: the requirements files that it names can be read"


@dataclass(frozen=True)
class Rule:
    """A kind of command: its text contains `pattern`; `more` is appended when it runs."""

    pattern: str
    how: How
    more: str = ""
    is_slow: bool = False


_STEP = "--config.train.steps=1 --config.train.batch_size=1 --config.optim.warmup=0"
_SCORES = "--config.sample.steps=1 --config.evaluate.clips=1 --config.evaluate.batch_size=1"
SMALL = f"{_STEP} {_SCORES} --config.data.frames=2"
_VIDEO = f"{SMALL} --config.evaluate.metrics=\"('motion',)\""
_VIDEO_VAE = f"{SMALL} --config.model.vae.temporal.places=(0,1)"
_DRAWN = "--config.init_from=sd15 --config.data.size=16"
_DEMO = f"{_VIDEO} {_DRAWN} --config.vae_from= --config.data.precompute_examples=1"

RULES = (
    # Runs that other tests make, too.
    Rule(
        r"^python -m magicvideo_jax\.train .*--config\.(seed=0|denoising\.image_prompts)",
        How.VERB,
        _DEMO,
        is_slow=True,
    ),
    Rule(r"^python -m magicvideo_jax\.convert runs/motion_lora ", How.VERB, is_slow=True),
    Rule(r"^make \S+$", How.DRY_RUN),
    Rule(r"^pip install ", How.REQUIREMENTS),
    Rule(
        r"^python -m magicvideo_jax\.train --config=(configs/t2v\.py|t2v)(:long)? ",
        How.VERB,
        _DEMO,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=(configs/t2v\.py|t2v):few ",
        How.VERB,
        f"{_VIDEO} --config.init_from=sd15 --config.vae_from= --config.data.size=32",
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=(configs/t2v\.py|t2v):sd15 ",
        How.VERB,
        f"{_VIDEO} --config.data.size=32",
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/t2v\.py:known_frames ",
        How.VERB,
        f"{_STEP} {_SCORES} --config.data.frames=8 --config.evaluate.metrics=\"('motion',)\" {_DRAWN} "
        "--config.vae_from= --config.data.precompute_examples=1",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/interpolation\.py ",
        How.VERB,
        f"{_STEP} {_SCORES} {_DRAWN} --config.data.precompute_examples=1",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.sample .*(runs/(told|between|unlabelled)|--strength|--image|--video)",
        How.VERB,
        "--steps=2",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/super_resolution\.py --workdir=runs/larger$",
        How.VERB,
        f"{_STEP} {_SCORES}",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/super_resolution\.py --workdir=runs/larger_real ",
        How.VERB,
        f"{_STEP} {_SCORES} --config.data.size=32 --config.super_resolution.crop=16",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/animatediff\.py:minutes ",
        How.VERB,
        f"{_VIDEO} {_DRAWN} --config.data.precompute_examples=1",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/animatediff\.py:lora ",
        How.VERB,
        f"{_VIDEO} --config.data.size=32 --config.optim.lora.rank=2",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/(animatediff|lavie)\.py ",
        How.VERB,
        f"{_VIDEO} --config.data.size=32",
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/lfdm\.py",
        How.VERB,
        f"{_STEP} {_SCORES} --config.data.frames=4",
        is_slow=True,
    ),
    Rule(r"^python -m magicvideo_jax\.sample .*--out=heart/", How.VERB, "--steps=1", is_slow=True),
    Rule(r"^python -m magicvideo_jax\.(sample|convert) .*runs/animate", How.VERB, is_slow=True),
    Rule(
        r"^python -m magicvideo_jax\.evaluate .*runs/animate", How.VERB, "--clips=1", is_slow=True
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/video_vae\.py ",
        How.VERB,
        f"{_VIDEO_VAE} {_DRAWN}",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/video_vae\.py:sd15 ",
        How.VERB,
        f"{_VIDEO_VAE} --config.data.size=32",
        is_slow=True,
    ),
    Rule(r"^python -m magicvideo_jax\.convert runs/video_vae ", How.VERB, is_slow=True),
    Rule(r"^python -m magicvideo_jax\.prepare ", How.VERB, "--size=32 --workers=1"),
    Rule(
        r"^python -m magicvideo_jax\.sample .*--context_frames",
        How.VERB,
        "--steps=1 --size=16x16 --frames=6 --context_frames=4 --context_overlap=2",
    ),
    Rule(
        r"^python -m magicvideo_jax\.sample .*--(unet|motion)",
        How.VERB,
        "--steps=1 --size=16x16 --frames=2",
    ),
    Rule(
        r"^python -m magicvideo_jax\.sample --sheet ",
        How.VERB,
        "--steps=1 --size=16x16 --frames=2",
    ),
    Rule(
        r"^python -m magicvideo_jax\.sample .*--upscale=embedded_upscaler",
        How.VERB,
        "--steps=1 --size=16x16 --frames=2",
        is_slow=True,
    ),
    Rule(
        r"^python -m magicvideo_jax\.sample --split",
        How.VERB,
        "--steps=1 --split_parts=4",
        is_slow=True,
    ),
    Rule(r"^python -m magicvideo_jax\.sample ", How.VERB, "--steps=1"),
    Rule(r"^python -m magicvideo_jax\.evaluate .*--network=", How.HELP),
    Rule(r"^python -m magicvideo_jax\.evaluate ", How.VERB, "--clips=1"),
    Rule(r"^python -m magicvideo_jax\.plan .*--table --topology", How.VERB, "--fsdp=1,8"),
    Rule(r"^python -m magicvideo_jax\.plan .*--table\b", How.VERB, "--topology=v5e:2x4 --fsdp=1,8"),
    Rule(r"^python -m magicvideo_jax\.plan .*--quick\b", How.VERB),
    Rule(r"^python -m magicvideo_jax\.plan ", How.VERB, "--quick"),
    Rule(r"^python -m magicvideo_jax\.convert ", How.VERB),
    Rule(r"^python -m magicvideo_jax\.serve\b", How.HELP),
    Rule(r"^python benchmarks/", How.HELP),
    Rule(r"^python -m benchmarks\.claims ", How.HELP),
    Rule(
        r"^python -m magicvideo_jax\.train --config=configs/vdm\.py(:half|:pixels)? ",
        How.VERB,
        f"{_VIDEO} --config.data.size=16 --config.data.precompute_examples=1",
        is_slow=True,
    ),
    Rule(r"^launch/local\.sh ", How.DRY_RUN),
    Rule(r"^launch/tpu_vm\.sh ", How.DRY_RUN),
    Rule(r"^(sbatch|gcloud|kubectl|export|pytest|\.|python -m timeit) ", How.NAMED_FILES),
    Rule(r"^apt-get install [\w-]+; pytest ", How.NAMED_FILES),
)

STAND_INS = (
    (r"--videos=DIR\b", "--videos=clips"),
    (r"--captions=FILE\b", "--captions=clips.csv"),
    (r"\bprepare (.*)--out=DIR\b", r"prepare \1--out=clips_set"),
    (r"\b(SD_)?WEIGHTS\b|\bSD1[45]\b", "sd15"),
    (r"stable-diffusion-v1-5/stable-diffusion-v1-5\b", "sd15"),
    (r"hf://guoyww/animatediff/", ""),
    (r"\bSOURCE TARGET\b", "sd15 back"),
    (r"(configs/video_vae\.py) --workdir=DIR\b", r"\1 --workdir=runs/video_vae"),
    (r"(evaluate) --workdir=RUN\b", r"\1 --workdir=runs/demo"),
    (r"--workdir=DIR\b", "--workdir=runs/demo"),
)
"""Patterns of placeholders for people's own files, and names in `MADE_BY` or `FILES` instead."""

FILES = (
    "clips",
    "clips.csv",
    "v1-5-pruned.safetensors",
    "TOKENIZER_FOLDER",
    "v3_sd15_mm.ckpt",
    "mm_sd_v15_v2.ckpt",
    "style.safetensors",
    "heart.png",
    "heart.mp4",
    "lavie_base.pt",
    "lavie_interpolation.pt",
    "lavie_vsr.pt",
    "X4_UPSCALER",
    "CLIP_WEIGHTS",
)
"""Files that people bring: a picture and five clips, four with captions, a tiny Stable Diffusion in one
file, tiny weights of AnimateDiff, LaVie and a LoRA that fit it, and a tiny image encoder of CLIP."""

_PREPARE = "python -m magicvideo_jax.prepare --videos=clips --captions=clips.csv"
_CONVERT = "python -m magicvideo_jax.convert v1-5-pruned.safetensors"
_TRAIN = "python -m magicvideo_jax.train"
MADE_BY = {
    "sd15": f"{_CONVERT} sd15 --tokenizer TOKENIZER_FOLDER",
    "stable-diffusion-v1-5": f"{_CONVERT} stable-diffusion-v1-5 --tokenizer TOKENIZER_FOLDER",
    "clips_set": f"{_PREPARE} --out=clips_set --vae=sd15 --size=256",
    "clips_pixels": f"{_PREPARE} --out=clips_pixels --pixels --size=256 --frames=48",
    "runs/demo": f"{_TRAIN} --config=configs/t2v.py --workdir=runs/demo",
    "runs/sd15": f"{_TRAIN} --config=configs/t2v.py:sd15 --workdir=runs/sd15 --config.init_from=sd15 "
    "--config.data.sources=\"({'path': 'clips_set'},)\"",
    "runs/motion": f"{_TRAIN} --config=configs/animatediff.py --workdir=runs/motion "
    "--config.init_from=sd15 --config.motion_from=v3_sd15_mm.ckpt "
    "--config.data.sources=\"({'path': 'clips_set'},)\"",
    "runs/lavie": f"{_TRAIN} --config=configs/lavie.py --workdir=runs/lavie --config.init_from=sd15 "
    "--config.unet_from=lavie_base.pt --config.data.sources=\"({'path': 'clips_set'},)\"",
    "runs/motion_lora": f"{_TRAIN} --config=configs/animatediff.py:lora --workdir=runs/motion_lora "
    "--config.init_from=sd15 --config.motion_from=mm_sd_v15_v2.ckpt "
    "--config.data.sources=\"({'path': 'clips_set'},)\"",
    "runs/told": f"{_TRAIN} --config=configs/t2v.py:known_frames --workdir=runs/told",
    "runs/larger": f"{_TRAIN} --config=configs/super_resolution.py --workdir=runs/larger",
    "runs/unlabelled": f"{_TRAIN} --config=configs/t2v.py --workdir=runs/unlabelled "
    "--config.denoising.image_prompts=all --config.image_encoder_from=CLIP_WEIGHTS",
    "runs/between": f"{_TRAIN} --config=configs/interpolation.py --workdir=runs/between",
    "runs/flow": f"{_TRAIN} --config=configs/lfdm.py --workdir=runs/flow",
    "runs/animate": f"{_TRAIN} --config=configs/lfdm.py:minutes_diffusion --workdir=runs/animate "
    "--config.init_from=runs/flow",
    "heart/frame_0000.png": "python -m magicvideo_jax.sample "
    '--prompt="a red heart moving left" --out=heart/',
    "runs/video_vae": f"{_TRAIN} --config=configs/video_vae.py --workdir=runs/video_vae",
}
"""Outputs of documented commands that other commands read, each with the command that makes it."""

NOT_YET: dict[str, tuple[str, ...]] = {}
"""Parts of commands that do not work as written, by document. Take out what is fixed; add nothing."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:[\w-]+/)+(?!x\.)[\w-]+\.(?:py|md|sh|yaml|sbatch|ipynb))\b[^`\n]*`")
"""A code span that begins with the path of a file, relative to the checkout or to the package. A
file called x stands for one that the reader will write."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_IS_COMMAND = re.compile(
    r"python -m (magicvideo_jax|benchmarks|timeit)\b.*|python benchmarks/.*|make [\w-]+|pip install .*"
    r"|launch/\S+ \S+ \S.*|(pytest|sbatch|gcloud|kubectl) .*"
)
_COMMENT = re.compile(r"(?:^|\s+)# ?\s.*$", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """A command or a program of a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def rule(self) -> Rule | None:
        """The first rule that matches the command."""
        return next((rule for rule in RULES if re.search(rule.pattern, self.text)), None)

    @property
    def is_broken(self) -> bool:
        """Whether it is known not to work as written."""
        return any(part in self.text for part in NOT_YET.get(self.document, ()))


def pieces(path: Path) -> Iterator[Piece]:
    """The fenced and inline commands of a document, and its Python programs, in order."""
    document, text = path.relative_to(ROOT).as_posix(), path.read_text()
    for fence in _FENCE.finditer(text):
        line = text[: fence.start()].count("\n") + 2
        if fence[1] == "python":
            yield Piece(document, line, "python", fence[2])
        elif fence[1] == "sh":
            for command in _COMMENT.sub("", fence[2]).replace("\\\n", " ").splitlines():
                if command.strip():
                    yield Piece(document, line, "sh", " ".join(command.split()))
    # Fences become empty lines, so that inline commands keep their line numbers.
    rest = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
    for span in _SPAN.finditer(rest):
        if _IS_COMMAND.fullmatch(span[1]):
            yield Piece(document, rest[: span.start()].count("\n") + 1, "sh", span[1])


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}
