"""Every command and every program in README.md and docs/ works as it is written; documented.py says how each is run.

Links and file names of documents lead to something.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import av
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from documented import (
    DOCUMENTS,
    FILE,
    FILES,
    LINK,
    LINKED,
    MADE_BY,
    ROOT,
    STAND_INS,
    How,
    Piece,
    anchors,
    pieces,
)
from packaging.requirements import Requirement
from PIL import Image
from verbs_in_process import run_main

from magicvideo_jax.experiment.config import Experiment, config_dict

PACKAGE = ROOT / "magicvideo_jax"
PIECES = [piece for path in DOCUMENTS for piece in pieces(path)]
COMMANDS = [piece for piece in PIECES if piece.language == "sh"]
PROGRAMS = [piece for piece in PIECES if piece.language == "python"]


class Checkout:
    """A scratch folder that looks like a checkout, and the commands that have run there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._done: set[str] = set()
        for name in ("configs", "launch", "benchmarks", "Makefile", "pyproject.toml", "setup.py"):
            (folder / name).symlink_to(ROOT / name)
        for path in ROOT.glob("requirements*.txt"):
            (folder / path.name).symlink_to(path)

    def run(self, text: str) -> None:
        """Run a command, once, after what it reads has been made."""
        for pattern, name in STAND_INS:
            text = re.sub(pattern, name, text)
        if text in self._done:
            return
        self._done.add(text)
        rule = Piece("", 0, "sh", text).rule
        assert rule is not None
        if rule.how is How.VERB:
            line = f"{text} {rule.more}"
            self.make_what_is_named(line, but=_output(text))
            _, _, module, *arguments = shlex.split(line)
            run_main([module, *arguments])
        elif rule.how is How.HELP:
            run_main([text.removeprefix("python ").removeprefix("-m ").split()[0], "--help"])
        elif rule.how is How.DRY_RUN:
            program, *arguments = shlex.split(text)
            shell(self.folder, program, "--dry-run", *arguments)
        elif rule.how is How.REQUIREMENTS:
            requirements(shlex.split(text))
        for name in re.findall(r"\b(?:launch|tests|benchmarks)/[\w/.-]+\w", text):
            assert (ROOT / name).exists(), f"{name} is not in the checkout"

    def make_what_is_named(self, text: str, *, but: str = "") -> None:
        """The inputs that a command or a program names and that are not there."""
        words = set(re.split(r"[\s='\"(),]+|:(?=\d)", text)) - {but}
        for name in (*FILES, *MADE_BY):
            if name in words and not Path(name).exists():
                if name in MADE_BY:
                    self.run(MADE_BY[name])
                else:
                    bring(name)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(autouse=True)
def here(checkout, monkeypatch, one_device) -> None:
    monkeypatch.chdir(checkout.folder)


def bring(name: str) -> None:
    """Make a file of people's own in the current folder."""
    from tiny_pipeline import save_file, single_file_of, tiny_folder

    match name:
        case "clips":
            Path(name).mkdir()
            for i in range(4):
                write_clip(Path(name) / f"{i}.mp4")
        case "heart.mp4":
            write_clip(Path(name))
        case "heart.png":
            Image.new("RGB", (48, 64), "red").save(name)
        case "clips.csv":
            rows = [f"{i}.mp4,a red heart moving left" for i in range(4)]
            Path(name).write_text("\n".join(["video,caption", *rows]) + "\n")
        case "v1-5-pruned.safetensors":
            save_file(single_file_of(tiny_folder()), name, metadata={"format": "pt"})
        case "TOKENIZER_FOLDER":
            shutil.copytree(tiny_folder() / "tokenizer", name)
        case "v3_sd15_mm.ckpt" | "mm_sd_v15_v2.ckpt":
            from tiny_motion import original_keys, tiny_adapter

            torch.save(original_keys(tiny_adapter("v2" if "v2" in name else "v3")), name)
        case "style.safetensors":
            from torch_lora import kohya, random_lora, save_lora, tensors_of

            lora = random_lora(tiny_folder(), r"attn\d\.to_[qkv]", rank=2, text=False)
            save_lora(Path(name), tensors_of(lora, kohya, torch.tensor(2.0)))
        case "X4_UPSCALER":
            from tiny_lavie import upscaler

            shutil.copytree(upscaler(), name)
        case "CLIP_WEIGHTS":
            from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

            sizes = {"hidden_size": 8, "intermediate_size": 16, "image_size": 8, "patch_size": 4}
            layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 6}
            CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, **layers)).save_pretrained(name)
        case _:
            from tiny_lavie import lavie_files

            shutil.copy(lavie_files() / name, name)


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        for i in range(48):
            frame = np.full((48, 48, 3), 30, np.uint8)
            frame[10:26, i % 30 : i % 30 + 12] = (220, 40, 40)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            file.mux(stream.encode(picture.reformat(format="yuv420p")))
        file.mux(stream.encode())


def _output(text: str) -> str:
    """What a command writes, and so does not read; what is there of an earlier command goes."""
    words = shlex.split(text)
    options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    path = options.get("out", "")
    if words[2].endswith(".train"):
        path = options["workdir"]
    elif words[2].endswith(".convert"):
        path = words[4]
    if path and "--check" not in words:
        shutil.rmtree(path, ignore_errors=True)
    return path


def shell(folder: Path, *words: str) -> None:
    """Run a program with the variables that the documents set."""
    environment = {"NAME": "magicvideo", "ZONE": "us-west4-a", "TYPE": "v5litepod-16"}
    environment["RUNTIME"] = "v2-alpha-tpuv5-lite"
    done = subprocess.run(
        words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"


def requirements(words: list[str]) -> None:
    """Read what `pip install` is asked for, and the files that it is sent to."""
    waiting = [word for word in words[2:] if not word.startswith("-")]
    while waiting:
        word = waiting.pop()
        if word == ".":
            assert Path("pyproject.toml").is_file()
            continue
        if not word.endswith(".txt"):
            Requirement(word)
            continue
        for line in Path(word).read_text().splitlines():
            line = line.partition("#")[0].strip()
            if line:
                waiting.append(line.removeprefix("-r "))


def cases(some: list[Piece]) -> list[Any]:
    """A test each, named by its place; those known to be broken are expected to fail."""
    broken = pytest.mark.xfail(strict=True, reason="listed as NOT_YET in tests/documented.py")
    return [
        pytest.param(
            piece,
            id=f"{piece.document}:{piece.line}",
            marks=[
                *([broken] if piece.is_broken else []),
                *([pytest.mark.slow] if piece.rule is not None and piece.rule.is_slow else []),
            ],
        )
        for piece in some
    ]


def test_commands_and_programs_are_found():
    """The tests below are worth what `pieces` finds."""
    assert len(COMMANDS) > 20
    assert len(PROGRAMS) > 1
    texts = {piece.text for piece in COMMANDS}
    assert "make demo" in texts
    assert "make test" in texts
    assert not [text for text in texts if "`" in text or text.endswith("\\")]


@pytest.mark.parametrize("piece", cases(COMMANDS))
def test_a_command_works_as_it_is_written(piece: Piece, checkout: Checkout):
    assert piece.rule is not None, (
        f"{piece.document}, line {piece.line}: no rule says how to run `{piece.text}`: add one to RULES in "
        "tests/documented.py"
    )
    checkout.run(piece.text)


@pytest.mark.parametrize("piece", cases(PROGRAMS))
def test_a_program_works_as_it_is_written(piece: Piece, checkout: Checkout):
    """Names that its document explains in words are given."""
    checkout.make_what_is_named(piece.text)
    names = {
        "config": config_dict(Experiment()),
        "z": jnp.zeros((1, 1, 8, 8, 4)),
        "time": jnp.array([10.0]),
        "text": jnp.zeros((1, 77, 64)),
    }
    exec(compile(piece.text, f"{piece.document}:{piece.line}", "exec"), names)


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_file_names_lead_to_something(path: Path):
    """Lists every dead one at once."""
    text, dead = path.read_text(), []
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if link.startswith("https://"):
            continue
        is_there = target.exists() and (not anchor or anchor in anchors(target))
        dead += [] if is_there else [link]
    for name in FILE.findall(text):
        dead += [] if any((top / name).exists() for top in (ROOT, PACKAGE)) else [name]
    assert not dead
