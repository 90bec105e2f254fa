"""A page on a tiny random model, served from a process of its own as a person would serve it."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from quick_xla import QUICK
from tiny_experiment import tiny

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.datasets import caption_words
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.shapes import abstract_run
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.parallel.mesh import make_mesh
from magicvideo_jax.training.checkpoint import Checkpoints

START_SECONDS = 300


def untrained_run(workdir: Path) -> Path:
    """A work folder with a checkpoint of random parameters of a model that can be told of frames: nothing is compiled
    for it."""
    folder, experiment = RunFolder(workdir), tiny()
    temporal = TemporalConfig(frames=2, known_frames=True)
    unet = replace(experiment.model.unet, temporal=temporal)
    experiment = replace(experiment, model=replace(experiment.model, unet=unet))
    folder.create()
    length = experiment.model.text.tokens
    build_vocabulary(caption_words(experiment), folder.tokenizer, length=length)
    size = CaptionTokenizer(folder.tokenizer, length=length).vocabulary_size
    text = replace(experiment.model.text, vocabulary=size)
    experiment = replace(experiment, model=replace(experiment.model, text=text))
    mesh = make_mesh(experiment.mesh, jax.devices()[:1])
    shapes = abstract_run(experiment, Networks(experiment.model), mesh).state
    draw = np.random.default_rng(0)

    def random(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = 0.3 * draw.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    state = jax.tree.map(random, shapes)
    with closing(Checkpoints(workdir)) as checkpoints:
        checkpoints.save_frozen(state.frozen)
        checkpoints.save(0, state, position={}, config=to_plain(experiment))
        checkpoints.wait()
    folder.write_config(experiment)
    return workdir


@dataclass(frozen=True)
class Served:
    """A page that is served, and the process that serves it."""

    url: str
    process: "subprocess.Popen[str]"

    def sampler(self) -> int:
        """Number of the process that samples for it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = [
            int(child)
            for task in children.parent.parent.glob("*/children")
            for child in task.read_text().split()
        ]
        (sampler,) = [
            child
            for child in found
            if b"sampler_worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        return sampler


@contextlib.contextmanager
def served(*arguments: str, log: Path) -> Iterator[Served]:
    """`serve` with these arguments on a free port of this machine. It ends with the block, and leaves no file."""
    temporary = log.with_suffix(".tmp")
    temporary.mkdir()
    # The fake devices of the tests would each make a clip.
    environment = {
        **os.environ,
        "XLA_FLAGS": QUICK,
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.values["jax_compilation_cache_dir"]),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TMPDIR": str(temporary),
    }
    command = [sys.executable, "-m", "magicvideo_jax.serve", "--port=0", *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, text=True, env=environment)
    try:
        yield Served(_address(process, log), process)
    finally:
        was_killed = process.poll() is not None
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert was_killed or not [*temporary.glob("magicvideo_*")]


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if found := re.search(r"http://\S+", log.read_text()):
            return found[0]
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"serve did not start: {log.read_text()}")
