"""Clips compared with a real set from the command line: kept features, honest lines, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_experiment import tiny
from tiny_features import TINY_NETWORKS, tiny_network, use_tiny_networks

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.records import (
    frame_features,
    shard_path,
    to_png,
    write_metadata,
    write_records,
)
from magicvideo_jax.evaluation.feature_extractors import EXTRACTORS
from magicvideo_jax.experiment.comparison.clip_sets import RecordClips
from magicvideo_jax.experiment.comparison.comparing import (
    ComparisonRequest,
    asked_protocol,
    compare_clips,
)
from magicvideo_jax.experiment.comparison.feature_files import Share
from magicvideo_jax.experiment.stages.registry import check_stage
from magicvideo_jax.media.clip_files import save_video

NETWORKS = {name: f"{name}.pt" for name in TINY_NETWORKS}
FRAMES, SIDE = 3, 8


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    use_tiny_networks(monkeypatch)


def random_clips(number: int, seed: int, frames: int = FRAMES) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, frames, SIDE, SIDE, 3), np.uint8)


def made_folder(folder: Path, clips: np.ndarray) -> Path:
    """Some clips as folders of pictures and some as arrays."""
    folder.mkdir()
    for i, clip in enumerate(clips):
        if i % 2:
            np.save(folder / f"clip_{i:03d}.npy", clip)
        else:
            save_video(clip, f"{folder}/clip_{i:03d}/", fps=8)
    folder.with_suffix(".txt").write_text("\n".join("x" * (1 + i) for i in range(len(clips))))
    return folder


def real_set(folder: Path, number: int = 10, *, short: int = 2) -> Path:
    """A prepared set whose first clips are too short."""
    features = frame_features()
    folder.mkdir()
    records = [
        {
            "name": f"clip{i}.mp4",
            "captions": [f"clip number {i}"],
            "fps": np.float32(8),
            "frames": to_png(clip[: 2 if i < short else None]),
        }
        for i, clip in enumerate(random_clips(number, 1, FRAMES + 2))
    ]
    write_records(shard_path(folder, "train", 0, 1), records, features)
    write_metadata(folder, features, {"train": [number]}, "A test.")
    return folder


@pytest.fixture
def request_of(tmp_path) -> ComparisonRequest:
    return ComparisonRequest(
        metrics=("fvd", "fid", "clipsim"),
        networks=NETWORKS,
        made=str(made_folder(tmp_path / "made", random_clips(9, 0))),
        prompts=str(tmp_path / "made.txt"),
        real=str(real_set(tmp_path / "real")),
        frames=FRAMES,
        features=str(tmp_path / "features"),
    )


def plain(request: ComparisonRequest) -> list[dict]:
    return [one.plain() for one in compare_clips(request)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The content of all files by their places."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_every_number_says_what_it_depends_on(request_of):
    fvd, fid, clipsim = compare_clips(request_of)
    text = "\n".join(fvd.lines())
    assert fvd.name == "frechet_i3d_0a1b2c3d"
    assert "9 (3 x 8 x 8; made/, lossless files) / 8 (3 x 8 x 8; " in text
    assert "10 clips, random window, seed 0, 2 too short" in text
    assert "i3d.pt, eps 1e-05" in text
    assert "other than tats: frames 3 instead of 16" in text
    assert "same set floor" in text
    assert "fewer than 2048 clips" in text
    assert fvd.plain()["curve"].keys() == {"2", "4"}
    assert fid.name == "frechet_inception_0a1b2c3d"
    assert fid.measured.value != fvd.measured.value
    assert clipsim.measured.beside.keys() == {"standard_error", "real"}


def test_only_known_weights_make_an_fvd(request_of):
    known = replace(request_of, metrics=("fvd",), networks={"i3d": "known.pt"})
    assert [one.name for one in compare_clips(known)] == ["fvd"]


def test_real_clips_at_distance_zero_are_the_same_clips(request_of, tmp_path):
    """A real set against its own windows, written as made clips."""
    protocol = asked_protocol(request_of)
    real = RecordClips(request_of.real, "train", protocol, 0, "--real")
    same = made_folder(tmp_path / "same", real.read(range(len(real))).pixels)
    same_request = replace(request_of, made=str(same), metrics=("fvd", "fid"))
    values = [one.measured.value for one in compare_clips(same_request)]
    assert np.abs(values).max() < 1e-6
    assert all(one.measured.value > 0.01 for one in compare_clips(request_of))


def test_what_was_interrupted_goes_on(request_of, monkeypatch):
    whole = plain(request_of)
    features = Path(request_of.features)
    files = bytes_of(features)
    assert len(files) > 10
    for file in sorted(features.rglob("*.npy"))[::2]:
        file.unlink()
    assert plain(request_of) == whole
    assert bytes_of(features) == files
    for kind in NETWORKS:  # all is there: no network is asked

        def refuse(*_):
            raise AssertionError("a feature is computed again")

        monkeypatch.setitem(
            EXTRACTORS,
            kind,
            lambda path, protocol, *, argument, kind=kind: replace(
                tiny_network(kind)(path, protocol, argument=argument), extract=refuse
            ),
        )
    assert plain(request_of) == whole


def test_any_number_of_hosts_gives_the_same_bytes(request_of, tmp_path):
    alone = plain(request_of)
    shared = replace(request_of, features=str(tmp_path / "shared"))
    assert not compare_clips(replace(shared, share=Share(0, 2)))
    assert plain(replace(shared, share=Share(1, 2))) == alone
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "features")


def test_more_clips_go_on_from_fewer(request_of):
    plain(replace(request_of, clips=4))
    files = bytes_of(Path(request_of.features))
    whole = plain(request_of)
    assert files.items() <= bytes_of(Path(request_of.features)).items()
    assert whole[0]["made_set"]["clips"] == 9


def test_statistics_of_a_real_set_take_its_place(request_of, tmp_path):
    file = tmp_path / "ucf.safetensors"
    request = replace(request_of, metrics=("fvd", "fid"))
    whole = plain(replace(request, write_real_stats=str(file)))
    by_file = replace(request, real="", real_stats=str(file))
    assert plain(by_file) == whole
    said = f"--real_stats={file}: statistics of another "
    for change, words in (
        ({"protocol": "stylegan_v"}, "ddof 1 instead of 0, eps 1e-05 instead of 0.001"),
        ({"frames": 2}, "frames 3 instead of 2"),
        (
            {"networks": NETWORKS | {"i3d": "other.pt"}},
            "network i3d.pt, eps 1e-05 instead of other",
        ),
    ):
        with pytest.raises(UserError) as error:
            compare_clips(replace(by_file, **change))
        assert str(error.value).startswith(said)
        assert words in str(error.value)
    file.write_bytes(b"other")
    with pytest.raises(UserError, match="no file of --write_real_stats"):
        compare_clips(by_file)


def test_compressed_clips_are_compared_only_where_it_is_asked_for(request_of, tmp_path):
    folder = tmp_path / "movies"
    folder.mkdir()
    for i, clip in enumerate(random_clips(4, 3)):
        save_video(clip, folder / f"{i}.mp4", fps=8)
    request = replace(request_of, metrics=("fvd",), made=str(folder), prompts="")
    with pytest.raises(UserError, match=r"0.mp4: compression changes a distance .* or --lossy"):
        compare_clips(request)
    (fvd,) = compare_clips(replace(request, lossy=True))
    assert "LOSSY .mp4" in fvd.made


def test_files_that_are_no_clips_are_named_with_what_is_wrong(request_of, tmp_path):
    folder = tmp_path / "damaged"
    made_folder(folder, random_clips(2, 3))
    request = replace(request_of, metrics=("fvd",), made=str(folder), lossy=True)

    def refusal() -> str:
        with pytest.raises(UserError) as error:
            compare_clips(request)
        return str(error.value).removeprefix(f"{folder}/")

    array = folder / "clip_001.npy"
    array.write_bytes(array.read_bytes()[:200])
    assert refusal().startswith("clip_001.npy: cannot be read (")
    np.save(array, np.zeros((FRAMES, SIDE, SIDE, 3), object), allow_pickle=True)
    assert refusal().startswith("clip_001.npy: cannot be read (Array can")
    np.save(array, np.zeros((FRAMES, SIDE, SIDE, 3), np.float32))
    assert refusal() == "clip_001.npy: float32 (3, 8, 8, 3): a clip is uint8 (t, h, w, 3)"
    array.unlink()
    (folder / "clip_002.mp4").write_bytes(b"no movie")
    assert refusal().startswith("clip_002.mp4: cannot be opened")
    picture = sorted((folder / "clip_000").iterdir())[1]
    Image.new("1", (30_000, 10_000)).save(picture)
    assert refusal().startswith(f"clip_000/{picture.name}: cannot be opened as a picture")
    Image.new("RGB", (9, 8)).save(picture)
    assert refusal() == "clip_000: frames of several sizes: give frames of one size"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "best"}, "--protocol=best: give one of original, stylegan_v, tats"),
        ({"clips": 1}, "--clips=1: give at least 2"),
        ({"networks": {}}, "--metrics=fvd needs --network=i3d=FILE"),
        ({"made": ""}, "give --workdir .*, or --made"),
        ({"weights": "embedded_video"}, "--made: .* without --workdir: give one"),
        ({"real": ""}, "--metrics=fvd needs --real or --real_stats"),
        ({"prompts": ""}, "--metrics=clipsim needs --prompts"),
        ({"frames": 4}, "clip_000: 3 frames of 4: make longer clips, or give --frames=3"),
        ({"frames": 9}, "--real=.*: 0 clips of 9 frames or more"),
        ({"made": "nowhere"}, "--made=.*nowhere: no folder"),
    ],
)
def test_what_cannot_be_compared_is_one_line(request_of, change, said):
    with pytest.raises(UserError, match=said) as error:
        compare_clips(replace(request_of, **change))
    assert "\n" not in str(error.value)


def test_a_config_does_not_name_metrics_that_need_weights():
    experiment = tiny()
    asked = replace(experiment, evaluate=replace(experiment.evaluate, metrics=("fvd",)))
    with pytest.raises(UserError, match="evaluate --metrics=fvd --network=i3d=FILE"):
        check_stage(asked)
