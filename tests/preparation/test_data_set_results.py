"""A data set is whole or is not there: empty results, full disks, machines that begin together."""

import numpy as np
import pytest
from test_what_people_have import clip, run, videos

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.records import frame_features, open_records, write_records
from magicvideo_jax.preparation.data_set import begin_data_set

__all__ = ["videos"]


def test_a_set_of_no_clips_is_an_error_and_leaves_nothing(videos, tmp_path):
    (videos / "a.png").write_bytes(b"no picture")
    clip(videos / "b.png")
    code, _, err = run(videos, tmp_path / "set", "--frames=8")
    assert code == 2
    assert "none of 2 clips can be used" in err
    assert "too short: 1 frames, and 8 are wanted (1)" in err
    assert not (tmp_path / "set").exists()


def test_a_set_without_clips_for_training_is_an_error(videos, tmp_path):
    clip(videos / "a.png")
    code, _, err = run(videos, tmp_path / "set", "--validation=0.999999")
    assert code == 2
    assert "--validation: all 1 usable clips fall to the validation split" in err
    assert not (tmp_path / "set").exists()


def test_a_split_whose_clips_cannot_be_used_is_no_split(videos, tmp_path):
    for number in range(12):
        clip(videos / f"{number}.png")
    (videos / "x.png").write_bytes(b"no picture")
    assert run(videos, tmp_path / "all", "--validation=0.1", "--per_shard=2")[0] == 0
    # Those that fall to validation become unusable.
    for number in range(12):
        if (videos / f"{number}.png").name in validation_names(tmp_path / "all"):
            (videos / f"{number}.png").write_bytes(b"no picture")
    assert run(videos, tmp_path / "set", "--validation=0.1", "--per_shard=2")[0] == 0
    with pytest.raises(UserError, match="there is no split validation; there is train"):
        open_records(tmp_path / "set", "validation")


def validation_names(folder) -> set[str]:
    records = open_records(folder, "validation")
    return {records[i]["name"].decode() for i in range(len(records))}


@pytest.mark.parametrize("step", ["write", "close"])
def test_a_full_disk_is_one_line_and_leaves_no_shard(videos, tmp_path, monkeypatch, step):
    def full(*_):
        raise RuntimeError(f"{step}() failed: No space left on device; not everything\nwas written")

    class FullDisk:
        def __init__(self, path, _):
            self.path = path

        write = full if step == "write" else lambda *_: True
        close = full if step == "close" else lambda *_: None

    monkeypatch.setattr("magicvideo_jax.data.records.ArrayRecordWriter", FullDisk)
    clip(videos / "a.png")
    code, _, err = run(videos, tmp_path / "set")
    assert code == 2
    shard = tmp_path / "set" / "clips-train.array_record-00000-of-00001"
    assert f"error: {shard} cannot be written: {step}() failed: No space left" in err
    assert not [path for path in (tmp_path / "set").rglob("*") if "clips-train" in path.name]


def test_an_error_while_records_are_made_is_not_called_a_full_disk(tmp_path):
    def records():
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        yield

    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        write_records(tmp_path / "x", records(), frame_features())


def test_machines_that_begin_together_agree(tmp_path, monkeypatch):
    """One finds no settings, and the other writes them before the first has listed the folder."""
    folder, settings = tmp_path / "set", {"frames": 8, "sizes": ((8, 8),)}
    begin_data_set(folder, settings)
    asked = iter([False])
    is_file = type(folder).is_file
    monkeypatch.setattr(
        type(folder), "is_file", lambda path: next(asked, None) is None and is_file(path)
    )
    begin_data_set(folder, settings)
    with pytest.raises(UserError, match="was begun with another frames"):
        begin_data_set(folder, settings | {"frames": 9})


def test_only_the_leader_of_a_job_begins_and_all_compare(videos, tmp_path, monkeypatch):
    """A follower that begins would race with the leader; here there is none, so nothing is begun."""
    from magicvideo_jax.runtime import processes

    begun = []
    monkeypatch.setattr(processes, "broadcast_from_leader", lambda decide: begun.append(decide))
    monkeypatch.setattr(
        "magicvideo_jax.preparation.command.begin_data_set",
        lambda folder, settings: begun.append(settings),
    )
    clip(videos / "a.png")
    run(videos, tmp_path / "set")
    assert callable(begun[0])
    assert isinstance(begun[1], dict)


def test_all_frames_of_a_set_are_those_of_the_files(videos, tmp_path):
    clip(videos / "12:30.png")
    assert run(videos, tmp_path / "set")[0] == 0
    record = open_records(tmp_path / "set")[0]
    assert record["name"] == b"12:30.png"
    assert np.asarray(record["fps"]) > 0
