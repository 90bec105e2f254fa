"""Checkpoints: which stay, what is done about damaged ones, and what a full or forbidden disk leaves."""

import gc
import os
import re
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from checkout import ROOT

from magicvideo_jax.core.checksums import find_corruption, write_checksums
from magicvideo_jax.core.errors import UserError, WriteFailed
from magicvideo_jax.runtime.run_lock import hold_run_lock
from magicvideo_jax.training.checkpoint import Checkpoints, Saved
from magicvideo_jax.training.state import TrainState, fresh_state

OPTIMIZER = optax.adamw(1e-3)


def state_at(step: int) -> TrainState:
    params = {
        "w": {"kernel": np.random.default_rng(step).standard_normal((32, 48)).astype(np.float32)}
    }
    frozen = {"vae": {"bias": np.arange(5, dtype=np.float32)}}
    return jax.device_put(
        fresh_state(params, OPTIMIZER)._replace(step=np.int32(step), frozen=frozen)
    )


def places() -> TrainState:
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=alone), state_at(0)
    )


def save(workdir: Path, *steps: int, **keep: int) -> None:
    with closing(Checkpoints(workdir, **keep)) as checkpoints:
        if checkpoints.latest() is None:
            checkpoints.save_frozen(state_at(0).frozen)
        for step in steps:
            checkpoints.save(step, state_at(step), position={"next": 8 * step}, config={"seed": 0})


def restored(workdir: Path) -> int:
    """The step, everything of which is what was saved."""
    with closing(Checkpoints(workdir)) as checkpoints:
        state, position = checkpoints.restore(places())
    step = int(state.step)
    assert position == {"next": 8 * step}
    jax.tree.map(np.testing.assert_array_equal, state, state_at(step))
    return step


def there(workdir: Path) -> list[str]:
    return sorted(
        path.name
        for path in (workdir / "checkpoints").iterdir()
        if "-" in path.name or path.name.isdigit()
    )


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        ({}, ["4", "5"]),
        ({"keep_last": 1}, ["5"]),
        ({"keep_last": 1, "keep_every": 2}, ["2", "4", "5"]),
    ],
    ids=str,
)
def test_the_last_stay_and_every_so_many_for_good(tmp_path, keep, stay):
    save(tmp_path, 1, 2, 3, 4, 5, **keep)
    assert there(tmp_path) == stay


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << 4
    file.write_bytes(content)


def files_of(folder: Path) -> list[Path]:
    """All that is read."""
    unread = ("_CHECKPOINT_METADATA", "commit_success.txt")
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and str(p.relative_to(folder)) not in unread
    )


def test_a_flipped_byte_is_found_in_every_file_wherever_it_is(tmp_path):
    save(tmp_path, 2)
    for folder in (tmp_path / "checkpoints" / "2", tmp_path / "frozen"):
        assert len(files_of(folder)) > 5
        for file in files_of(folder):
            whole = file.read_bytes()
            for place in (0, 0.3, 0.5, 0.8, 1):
                flip(file, place)
                named = (
                    "" if file.name == "seal.json" else file.name
                )  # it names what it says of another
                found = find_corruption(folder)
                assert found is not None, (file, place)
                assert named in found
                file.write_bytes(whole)
        assert find_corruption(folder) is None


def test_what_is_not_sealed_is_not_read(tmp_path):
    save(tmp_path, 2)
    for folder in (tmp_path / "checkpoints" / "2", tmp_path / "frozen"):
        for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
            (folder / name).write_bytes(b"\xff no JSON")
    assert restored(tmp_path) == 2


def newest_file(folder: Path, kind: str) -> Path:
    """The largest of an item: where the arrays are."""
    data = [file for file in files_of(folder / kind) if file.name != "seal.json"]
    return max(data, key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("kind", ["state", "ema", "position", "config"])
@pytest.mark.parametrize("how", ["flipped", "missing", "cut"])
def test_the_one_before_a_damaged_one_is_used(tmp_path, capfd, kind, how):
    save(tmp_path, 2, 4)
    file = newest_file(tmp_path / "checkpoints" / "4", kind)
    if how == "flipped":
        flip(file, 0.5)
    elif how == "missing":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    assert restored(tmp_path) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert f"checkpoints/4 is damaged: {kind}/" in said
    assert "it is now damaged-4" in said
    assert there(tmp_path) == ["2", "damaged-4"]
    save(tmp_path, 4)
    assert restored(tmp_path) == 4


def test_where_all_are_damaged_nothing_begins_anew(tmp_path):
    save(tmp_path, 2, 4)
    for step in ("2", "4"):
        (tmp_path / "checkpoints" / step / "seal.json").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=r"checkpoints: every checkpoint here is damaged"):
            Checkpoints(tmp_path)
    assert there(tmp_path) == ["damaged-2", "damaged-4"]


def test_readers_pass_over_damage_and_change_nothing(tmp_path, capfd):
    save(tmp_path, 2, 4)
    flip(newest_file(tmp_path / "checkpoints" / "4", "position"), 0.5)
    ema = Saved(tmp_path).restore_ema(places().ema)
    jax.tree.map(
        np.testing.assert_array_equal, ema, state_at(4).ema
    )  # the position is nothing to them
    flip(newest_file(tmp_path / "checkpoints" / "4", "ema"), 0.5)
    ema = Saved(tmp_path).restore_ema(places().ema)
    jax.tree.map(np.testing.assert_array_equal, ema, state_at(2).ema)
    assert "passed over" in capfd.readouterr().err
    assert there(tmp_path) == ["2", "4"]


def test_damaged_frozen_networks_are_named(tmp_path):
    save(tmp_path, 2)
    file = newest_file(tmp_path, "frozen")
    flip(file, 0.5)
    with pytest.raises(
        UserError, match=rf"frozen is damaged: {file.relative_to(tmp_path / 'frozen')} .*init_from"
    ):
        restored(tmp_path)


def test_unfinished_saves_are_removed_and_named(tmp_path, capfd):
    save(tmp_path, 2)
    left = [
        tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp",
        tmp_path / "frozen.orbax-checkpoint-tmp",
    ]
    for folder in left:
        (folder / "state").mkdir(parents=True)
    assert restored(tmp_path) == 2
    said = capfd.readouterr().err
    for folder in left:
        assert f"{folder}: a save that did not end; removed" in said
        assert not folder.exists()


def test_a_seal_leaves_out_what_it_is_told_to(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path, without=["b"])
    (tmp_path / "b").write_text("c")
    assert find_corruption(tmp_path) is None
    assert find_corruption(tmp_path, under="b") is None
    (tmp_path / "seal.json").write_text("[1]")
    assert find_corruption(tmp_path) == "seal.json is not what was written"


def test_what_the_system_refuses_to_read_is_named(tmp_path):
    save(tmp_path, 2)
    checksums = tmp_path / "checkpoints" / "2" / "seal.json"
    checksums.unlink()
    checksums.mkdir()
    assert find_corruption(checksums.parent) == "seal.json cannot be read (Is a directory)"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").touch()
    with pytest.raises(UserError, match=r"other/checkpoints cannot be read: Not a directory"):
        Checkpoints(tmp_path / "other")


def test_a_checkpoint_of_another_model_is_one_line(tmp_path):
    save(tmp_path, 2)
    shape = places().params["w"]["kernel"]
    for other in (shape.update(shape=(32, 49)), {"more": shape}):
        wanted = places()._replace(ema={"w": {"kernel": other}})
        with pytest.raises(UserError, match=r"checkpoints/2 cannot be restored into this run \("):
            Saved(tmp_path).restore_ema(wanted.ema)


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "run.lock").symlink_to("/dev/full")
    with (
        pytest.raises(UserError, match=f"--workdir={tmp_path}: cannot write there: "),
        hold_run_lock(tmp_path),
    ):
        pass


HOLD = """
import sys, time
from pathlib import Path
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.runtime.run_lock import hold_run_lock

def hold():
    with hold_run_lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)

exit_with(hold)
"""


def test_a_second_run_is_refused_until_the_first_is_gone_even_if_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2
        assert len(second.stderr.splitlines()) == 1
        assert (
            f"--workdir={tmp_path}: another run writes there (process {first.pid} on "
            in second.stderr
        )
        first.kill()
    with hold_run_lock(tmp_path):
        pass


@contextmanager
def mounted(folder: Path, options: str):
    """A file system of its own."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """But for 20,000 bytes."""
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - 20_000))


def test_a_full_disk_is_named_and_the_checkpoints_before_stay_whole(tmp_path):
    with mounted(tmp_path / "small", "size=2m") as workdir:
        save(workdir, 2)
        fill(workdir)
        # In a process of its own, as `train` is: TensorStore's threads go on writing until it ends.
        program = (
            "import sys; sys.path.append('..'); from pathlib import Path; "
            "from magicvideo_jax.runtime.exit import exit_with; "
            "from test_checkpoint import save; exit_with(lambda: save(Path(sys.argv[1]), 4))"
        )
        command = [sys.executable, "-c", program, str(workdir)]
        done = subprocess.run(
            command, cwd=ROOT / "tests" / "training", capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert re.search(
            r"error: \S*small/checkpoints: step 4 could not be saved \(.*[Nn]o space left",
            done.stderr,
        )
        (workdir / "filler").unlink()
        assert restored(workdir) == 2
        assert there(workdir) == ["2"]
        save(workdir, 4)
        assert restored(workdir) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_failed_is_known_before_the_next(tmp_path):
    with mounted(tmp_path / "small", "size=2m") as workdir:
        checkpoints = Checkpoints(workdir)
        fill(workdir)
        checkpoints.save(2, state_at(2), position={}, config={})

        def steps():
            for _ in range(600):
                checkpoints.check()
                time.sleep(0.1)

        with pytest.raises(WriteFailed, match="step 2 could not be saved"):
            steps()
        gc.collect()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with mounted(tmp_path / "small", "size=2m") as workdir:
        save(workdir, 2)
        subprocess.run(["mount", "-o", "remount,ro", workdir], check=True)
        with (
            pytest.raises(UserError, match=r"--workdir=.*small: cannot write there: Read-only"),
            hold_run_lock(workdir),
        ):
            pass
        ema = Saved(workdir).restore_ema(places().ema)
        jax.tree.map(np.testing.assert_array_equal, ema, state_at(2).ema)
