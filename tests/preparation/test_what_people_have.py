"""Folders, names and tables as people have them: used, or counted, or refused in one line."""

import json
import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image
from test_prepare import prepare_here

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.data.records import open_records, write_records
from magicvideo_jax.preparation.clip_folder import printable
from magicvideo_jax.preparation.clip_listing import Listing, list_clips
from magicvideo_jax.preparation.data_set import begin_data_set

CAFE = "caf\u00e9"


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    return folder


def clip(path) -> None:
    """A still picture, the quickest clip there is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (200, 30, 30)).save(path)


def captions(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.captions for entry in listing.entries}


def left_out(listing: Listing) -> dict[str, int]:
    return {some.reason: some.count for some in listing.left_out}


def run(videos, out, *more: str) -> tuple[int, str, str]:
    return prepare_here(
        f"--videos={videos}",
        f"--out={out}",
        *("--pixels", "--frames=1", "--size=16", "--workers=1", "--validation=0"),
        *more,
    )


# Names


def test_a_name_that_is_not_utf8_costs_itself_and_is_counted(videos, tmp_path):
    clip(videos / "a.png")
    shutil.copy(videos / "a.png", os.fsdecode(os.fsencode(videos) + b"/caf\xe9.png"))
    shutil.copytree(videos, os.fsdecode(os.fsencode(videos) + b"/ordner\xfc"))
    code, said, _ = run(videos, tmp_path / "set", "--check")
    assert code == 0
    assert "clips       1," in said
    assert (
        r"left out    3 files whose names are not UTF-8 (rename them), such as caf\xe9.png" in said
    )
    code, said, err = run(videos, tmp_path / "set")
    assert code == 0
    assert "used     1 clips" in said
    assert r"left out: 3 files whose names are not UTF-8" in err
    assert len(open_records(tmp_path / "set")) == 1


@pytest.mark.parametrize("argument", ["--videos", "--out", "--captions"])
def test_an_argument_that_is_not_utf8_is_one_line(videos, tmp_path, argument):
    clip(videos / "a.png")
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    code, _, err = run(videos, tmp_path / "set", f"{argument}={bad}", "--check")
    assert code == 2
    assert f"error: {argument}=" in err
    assert "not UTF-8" in err


@pytest.mark.parametrize("field", ["video", "caption"])
def test_half_a_surrogate_pair_in_a_table_is_one_line(videos, tmp_path, field):
    clip(videos / "a.png")
    row = {"video": "a.png", "caption": "x"} | {field: "\ud83d"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="row at line 1"):
        list_clips(videos, tmp_path / "t.jsonl")


def test_every_name_is_printed_on_one_line():
    assert printable("a\nb\x1b[0m\udce9.mp4") == r"a\nb\x1b[0m\xe9.mp4"
    assert printable(f"{CAFE} \N{SNOWMAN}.mp4") == f"{CAFE} \N{SNOWMAN}.mp4"


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_the_same_in_both_unicode_forms(videos, tmp_path, on_disk, in_table):
    clip(videos / unicodedata.normalize(on_disk, f"{CAFE}.png"))
    (tmp_path / "t.csv").write_text(
        "video,caption\n" + unicodedata.normalize(in_table, f"{CAFE}.png,a cup\n")
    )
    assert captions(list_clips(videos, tmp_path / "t.csv")) == {f"{CAFE}.png": ("a cup",)}
    (videos / unicodedata.normalize(in_table, f"{CAFE}.txt")).write_text("beside")
    assert captions(list_clips(videos, None)) == {f"{CAFE}.png": ("beside",)}


def test_two_names_that_look_alike_are_one_line(videos):
    for form in ("NFC", "NFD"):
        clip(videos / unicodedata.normalize(form, f"{CAFE}.png"))
    with pytest.raises(UserError, match="differ only in the Unicode form"):
        list_clips(videos, None)


def test_a_table_may_spell_paths_in_every_usual_way(videos, tmp_path, monkeypatch):
    clip(videos / "in" / "a.png")
    (tmp_path / "link").symlink_to(videos)
    monkeypatch.chdir(videos / "in")
    for spelled in (
        *("in/a.png", "./in/a.png", "in//a.png", "in/../in/a.png", r"in\a.png", "in/a"),
        *(f"{videos}/in/a.png", f"{tmp_path}/link/in/a.png", "clips/in/a.png", "a.png"),
    ):
        (tmp_path / "t.csv").write_text(f"video,caption\n{spelled},x\n")
        assert captions(list_clips(videos, tmp_path / "t.csv")) == {"in/a.png": ("x",)}, spelled
        assert captions(list_clips(tmp_path / "link", tmp_path / "t.csv")) == {"in/a.png": ("x",)}
    (tmp_path / "t.csv").write_text(f"video,caption\n{videos}-more/a.png,x\n")
    with pytest.raises(UserError, match="leads out of"):
        list_clips(videos, tmp_path / "t.csv")


# Folders


def test_linked_folders_are_walked_and_counted(videos, tmp_path):
    for name in ("x.png", "deep/y.png"):
        clip(tmp_path / "disk" / name)
    clip(videos / "here.png")
    (videos / "disk1").symlink_to(tmp_path / "disk")
    listing = list_clips(videos, None)
    assert list(captions(listing)) == ["disk1/deep/y.png", "disk1/x.png", "here.png"]
    assert listing.linked == 2
    (tmp_path / "t.csv").write_text(f"video,caption\n{tmp_path}/disk/x.png,x\n")
    assert captions(list_clips(videos, tmp_path / "t.csv")) == {"disk1/x.png": ("x",)}


def test_links_that_form_loops_end_and_no_clip_comes_twice(videos, tmp_path):
    clip(videos / "a" / "x.png")
    (videos / "a" / "up").symlink_to(videos)
    (videos / "again").symlink_to(videos / "a")
    (videos / "self").symlink_to(videos / "self")
    (videos / "out").symlink_to(tmp_path / "there")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "back").symlink_to(videos)
    listing = list_clips(videos, None)
    assert list(captions(listing)) == ["a/x.png"]
    assert left_out(listing)["links to folders that are read anyway"] == 3


def test_everything_that_is_passed_over_has_a_number(videos, tmp_path):
    for name in ("a.png", ".hidden.png", ".cache/b.png"):
        clip(videos / name)
    (videos / "gone.mp4").symlink_to(tmp_path / "gone")
    os.mkfifo(videos / "pipe.mp4")
    for name in ("notes.md", "table.xlsx", "stray.txt"):
        (videos / name).write_text("text")
    assert left_out(list_clips(videos, None)) == {
        "hidden files and folders": 2,
        "links to nothing, and what is neither file nor folder": 2,
        "files of other kinds": 2,
        "text files that belong to no clip": 1,
    }
    _, said, _ = run(videos, tmp_path / "set", "--check")
    assert said.count("left out    ") == 4


def test_a_folder_without_clips_says_what_was_there(videos):
    (videos / "film.rmvb").write_bytes(b"film")
    with pytest.raises(UserError, match=r"1 files of other kinds, such as film\.rmvb"):
        list_clips(videos, None)


def test_outputs_inside_the_input_are_never_clips(videos, tmp_path):
    clip(videos / "a.png")
    for out in ("set", "other"):
        assert run(videos, videos / out, "--check")[0] == 0
        assert run(videos, videos / out)[0] == 0
    # Another run of this program, with pictures of its own.
    clip(videos / "run" / "previews" / "step_1.png")
    (videos / "run" / "checkpoints").mkdir()
    write_json(videos / "run" / "config.json", {})
    code, said, _ = run(videos, videos / "third", "--check")
    assert code == 0
    assert "clips       1," in said
    assert "5 outputs of this program" in said
    # A picture of that name that is no contact sheet is a clip, and an unfinished set goes on.
    clip(videos / "mine-check.png")
    assert "clips       2," in run(videos, tmp_path / "set", "--check")[1]


def test_the_folder_of_the_clips_is_no_output(videos):
    clip(videos / "a.png")
    code, _, err = run(videos, videos, "--check")
    assert code == 2
    assert "this is the folder of the clips" in err


def test_a_current_folder_can_be_the_output(videos, tmp_path, monkeypatch):
    clip(videos / "a.png")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(videos, ".", "--check")[0] == 0
    assert (tmp_path / "here-check.png").is_file()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("~/clips", "~/set")[0] == 0
    assert (tmp_path / "set" / "dataset_info.json").is_file()


# Captions


@pytest.mark.parametrize("text", ["A.txt", "A.TXT", "A.MP4.txt", "A.mp4.TXT"])
def test_captions_beside_clips_may_be_spelled_in_every_usual_way(videos, text):
    (videos / "A.MP4").write_bytes(b"clip")
    (videos / text).write_text("a red box")
    listing = list_clips(videos, None)
    assert captions(listing) == {"A.MP4": ("a red box",)}
    assert not listing.left_out


def test_two_texts_for_one_clip_are_one_line(videos):
    (videos / "A.MP4").write_bytes(b"clip")
    for text in ("A.txt", "A.MP4.txt"):
        (videos / text).write_text("a red box")
    with pytest.raises(UserError, match=r"A\.txt and A\.MP4\.txt both describe A\.MP4"):
        list_clips(videos, None)


TABLES = {
    "open_sora.csv": ("path,text,num_frames\nsub/a.png,one,8\n", "Open-Sora's table"),
    "hub.csv": ("file_name,text\nsub/a.png,one\n", "Hugging Face metadata"),
    "hub.jsonl": ('{"file_name": "sub/a.png", "text": "one"}\n', "Hugging Face metadata"),
    "list.json": ('[{"video": "sub/a.png", "caption": "one"}]', "a table of video and caption"),
    "several.json": ('[{"path": "sub/a.png", "text": ["one", "one"]}]', "Open-Sora's table"),
    "prompts.txt": ("one\n\n", "captions a line beside videos.txt"),
}


@pytest.mark.parametrize("name", list(TABLES))
def test_tables_of_other_tools_are_recognised(videos, tmp_path, name):
    clip(videos / "sub" / "a.png")
    text, form = TABLES[name]
    (tmp_path / name).write_text(text)
    (tmp_path / "videos.txt").write_text("sub/a.png\n")
    listing = list_clips(videos, tmp_path / name)
    assert captions(listing) == {"sub/a.png": ("one",)}
    assert listing.captions_from == f"{tmp_path / name}, read as {form}"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "prompts.txt"])
def test_a_folder_with_a_table_can_be_given(videos, name):
    clip(videos / "a.png")
    text = {"metadata.csv": "hub.csv", "metadata.jsonl": "hub.jsonl"}.get(name, "prompts.txt")
    (videos / name).write_text(TABLES[text][0].replace("sub/", ""))
    if name == "prompts.txt":
        (videos / "videos.txt").write_text("a.png\n")
    assert captions(list_clips(videos, videos)) == {"a.png": ("one",)}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"video_column": "Clip", "caption_column": "prompt"}, "p"),
        ({"video_column": "clip"}, "t"),
        ({"video_column": "clip", "caption_column": "words"}, "w"),
    ],
)
def test_columns_can_be_named(videos, tmp_path, columns, expected):
    clip(videos / "a.png")
    (tmp_path / "t.csv").write_text("clip,prompt,text,words\na.png,p,t,w\n")
    assert captions(list_clips(videos, tmp_path / "t.csv", **columns)) == {"a.png": (expected,)}


@pytest.mark.parametrize(
    ("name", "text", "columns", "said"),
    [
        ("t.csv", "clip,prompt\na.png,p\n", {}, "by --video_column and --caption_column"),
        ("t.csv", "clip,prompt\na.png,p\n", {"video_column": "video"}, "has clip, prompt"),
        ("t.csv", "clip,prompt\na.png,p\n", {"video_column": "clip"}, "--caption_column: --capt"),
        ("t.csv", "video,text,text\na.png,p,q\n", {}, "two columns are called text"),
        ("t.json", '{"a.png": "p"}', {}, "give a list of objects"),
        ("t.json", '[{"video": "a.png", "caption": "p"}, 3]', {}, "object 2: give an object"),
        ("t.json", '[{"video": "a.png", "caption": null}]', {}, "object 1: no caption"),
        ("t.json", "[", {}, "not JSON"),
        ("t.txt", "one\ntwo\n", {}, "2 captions for 1 clips in"),
        ("t.txt", "one\n", {"video_column": "clip"}, "has no columns"),
        ("t.txt", "one\n" + "x" * 20_000, {}, "2 captions for 1"),
    ],
)
def test_a_mistake_in_a_table_of_other_tools_is_one_line(
    videos, tmp_path, name, text, columns, said
):
    clip(videos / "a.png")
    (tmp_path / name).write_text(text)
    (tmp_path / "videos.txt").write_text("a.png\n")
    with pytest.raises(UserError, match=said):
        list_clips(videos, tmp_path / name, **columns)


def test_captions_a_line_need_the_names_beside_them(videos, tmp_path):
    clip(videos / "a.png")
    (tmp_path / "prompts.txt").write_text("one\n")
    with pytest.raises(UserError, match=r"needs videos\.txt beside it"):
        list_clips(videos, tmp_path / "prompts.txt")


# Empty results, full disks, several beginnings


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

    from magicvideo_jax.data.records import frame_features

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
