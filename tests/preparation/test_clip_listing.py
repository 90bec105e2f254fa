"""Which clips are found, which captions they get, and the one line for every mistake in a table."""

import json

import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.preparation.clip_listing import Listing, list_clips


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "clips"
    for name in ("b.mp4", "a.webp", "deep/er/c.MKV", "deep/notes.md", ".hidden/d.mp4", ".e.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"clip")
    return folder


def table(tmp_path, text: str, name="captions.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def said(listing: Listing) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.captions for entry in listing.entries}


def left_out(listing: Listing) -> dict[str, int]:
    return {some.reason: some.count for some in listing.left_out}


def test_text_files_beside_the_clips(videos):
    (videos / "b.txt").write_text("one\n\n two \n")
    (videos / "deep/er/c.txt").write_text("\ufeffthree", encoding="utf-8")
    listing = list_clips(videos, None)
    assert said(listing) == {"a.webp": (), "b.mp4": ("one", "two"), "deep/er/c.MKV": ("three",)}
    assert [entry.path for entry in listing.entries] == [
        videos / entry.name for entry in listing.entries
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "t.csv",
            "\ufeffid,Video,caption\n1,b.mp4,one\n2,deep/er/c.MKV,\n3,b,two\n".replace(
                "3,b,", "3,b.mp4,"
            ),
        ),
        (
            "t.csv",
            'video,caption\n"b.mp4","one"\n\n b.mp4 ,two\ndeep/er/c,\n'.replace(" b.mp4 ", "b.mp4"),
        ),
        ("t.tsv", "caption\tvideo\none\tb.mp4\ntwo\tb.mp4\n\tdeep/er/c.MKV\n"),
        (
            "t.jsonl",
            '{"video": "b.mp4", "captions": ["one", "two"]}\n\n{"Video": "deep/er/c.MKV", "caption": ""}\n',
        ),
    ],
)
def test_tables_say_the_same_in_every_format(videos, tmp_path, name, text):
    listing = list_clips(videos, table(tmp_path, text, name))
    assert said(listing) == {"b.mp4": ("one", "two"), "deep/er/c.MKV": ()}
    assert left_out(listing)["clips that no caption names"] == 1


def test_captions_keep_commas_and_lines(videos, tmp_path):
    listing = list_clips(videos, table(tmp_path, 'video,caption\nb.mp4,"a, b\nand ""c"""\n'))
    assert said(listing) == {"b.mp4": ('a, b\nand "c"',)}


def test_webvid_s_own_table(videos, tmp_path):
    (videos / "page1").mkdir()
    (videos / "page1/17.mp4").write_bytes(b"clip")
    text = "videoid,contentUrl,duration,page_dir,name\n17,http://x,PT1S,page1,a cat\n18,http://y,PT1S,page1,a dog\n"
    listing = list_clips(videos, table(tmp_path, text))
    assert said(listing) == {"page1/17.mp4": ("a cat",)}
    assert left_out(listing)["clips that no caption names"] == 3
    assert left_out(listing)["captions without their clip"] == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "t.csv",
            "clip,caption\nb.mp4,x\n",
            "needs the columns video, caption .* its first line has clip, caption",
        ),
        ("t.csv", "", "is empty"),
        ("t.csv", "video,caption\n", "names no clip"),
        (
            "t.csv",
            "video,caption\nb.mp4,x\nnone.mp4,y\n",
            "row at line 3: there is no clip none.mp4",
        ),
        (
            "t.csv",
            'video,caption\nb.mp4,"x\ny"\n/etc/passwd,y\n',
            "row at line 4: /etc/passwd leads out of",
        ),
        ("t.csv", "video,caption\n../b.mp4,y\n", r"row at line 2: \.\./b.mp4 leads out of"),
        ("t.csv", "video,caption\nb.mp4,a, b\n", "row at line 2: 3 cells for 2 columns"),
        (
            "t.csv",
            "video,caption\nb.mp4,x\nb,y\n",
            "row at line 3: b is the clip that an earlier row calls b.mp4",
        ),
        ("t.csv", 'video,caption\nb.mp4,"x\n', "row at line 2: unexpected end of data"),
        (
            "t.csv",
            f"video,caption\nb.mp4,{'x' * 20_000}\n",
            "row at line 2: a caption of 20000 letters",
        ),
        (
            "t.csv",
            f"video,caption\nb.mp4,{'x' * 200_000}\n",
            "row at line 2: field larger than field limit",
        ),
        ("t.jsonl", '{"video": "b.mp4"}\n', "row at line 1: no caption"),
        ("t.jsonl", '{"video": "b.mp4", "captions": "x"}\n', "row at line 1: captions is no list"),
        ("t.jsonl", "{}\n[1]\n", "row at line 1: no video"),
        ("t.jsonl", "[1]\n", "row at line 1: give an object"),
        ("t.jsonl", '{"video": \n', "row at line 1: not JSON"),
        ("t.jsonl", "[" * 100_000 + "\n", "row at line 1: not JSON"),
        ("t.xlsx", "", "give a .csv, .tsv, .json, .jsonl or .txt"),
    ],
)
def test_a_mistake_in_a_table_names_the_file_and_the_row(videos, tmp_path, name, text, message):
    path = table(tmp_path, text, name)
    with pytest.raises(UserError, match=message) as caught:
        list_clips(videos, path)
    assert str(path) in str(caught.value)


def test_an_ending_may_be_left_out_where_it_is_plain(videos, tmp_path):
    (videos / "b.webm").write_bytes(b"clip")
    assert said(list_clips(videos, table(tmp_path, "video,caption\ndeep/er/c,x\n"))) == {
        "deep/er/c.MKV": ("x",)
    }
    with pytest.raises(UserError, match=r"b may be b\.mp4 or b\.webm: add the ending"):
        list_clips(videos, table(tmp_path, "video,caption\nb,x\n"))


def test_files_and_folders_that_cannot_be_read(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    latin = tmp_path / "latin.csv"
    latin.write_bytes("video,caption\nb.mp4,caf\u00e9\n".encode("latin-1"))
    (videos / "b.txt").write_bytes(b"\xff\xfe\xff")
    for folder, path, message in (
        (tmp_path / "nothing", None, "no such folder"),
        (videos / "b.mp4", None, "not a folder"),
        (tmp_path / "empty", None, "no clips there"),
        (videos, tmp_path / "no.csv", "no such file"),
        (videos, latin, "not UTF-8"),
        (videos, None, r"b\.txt cannot be read as text"),
    ):
        with pytest.raises(UserError, match=message):
            list_clips(folder, path)


def test_repeated_captions_of_a_clip_count_once(videos, tmp_path):
    rows = (json.dumps({"video": "b.mp4", "caption": f"caption {i % 7}"}) for i in range(1000))
    listing = list_clips(videos, table(tmp_path, "\n".join(rows), "t.jsonl"))
    assert len(said(listing)["b.mp4"]) == 7
