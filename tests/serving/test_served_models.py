"""Models of the page by their names, weight files by theirs, and how many stay loaded."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from magicvideo_jax import serve
from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.serving import model_shelf
from magicvideo_jax.serving.model_shelf import ModelShelf
from magicvideo_jax.serving.request_text import ModelChoice
from magicvideo_jax.serving.result_folder import CLIP_ENDINGS, ResultFolder
from magicvideo_jax.serving.served_models import (
    ServedModel,
    ServedModels,
    WeightFiles,
    find_weight_files,
    named_models,
)
from magicvideo_jax.serving.uploads import uploaded_frames


def test_models_are_named_by_the_ends_of_their_paths():
    names = named_models(["/a/demo", "/b/demo", "embedded", "demo"])
    assert [*names] == ["demo", "demo (2)", "embedded", "demo (3)"]
    assert names["demo (2)"] == ModelRequest("/b/demo")


@pytest.fixture
def weights(tmp_path):
    """A folder with a LoRA, motion modules, other weights, a file that is none, and a deeper one."""
    ones = np.ones((2, 2), np.float32)
    (tmp_path / "styles" / "deep").mkdir(parents=True)
    for name, key in (
        ("styles/ink.safetensors", "lora_unet_x.lora_down.weight"),
        ("mm.safetensors", "down_blocks.0.motion_modules.0.weight"),
        ("other.safetensors", "conv.weight"),
        ("styles/deep/far.safetensors", "lora_unet_x.lora_down.weight"),
    ):
        save_file({key: ones}, tmp_path / name)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "readme.txt").write_text("read me")
    return tmp_path


def test_weight_files_are_told_by_what_they_hold(weights, capsys):
    found = find_weight_files([str(weights)])
    assert found.loras == {"styles/ink.safetensors": weights / "styles/ink.safetensors"}
    assert found.motions == {"mm.safetensors": weights / "mm.safetensors"}
    assert "left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="--weights_dir=/nowhere: no such folder"):
        find_weight_files(["/nowhere"])


def test_a_choice_is_of_names_and_never_of_paths(weights):
    models = ServedModels(
        {"demo": ServedModel(ModelRequest("/a"))}, find_weight_files([str(weights)])
    )
    asked = models.request(
        ModelChoice("", lora="styles/ink.safetensors", lora_scale=0.5, motion="mm.safetensors")
    )
    assert asked == ModelRequest(
        "/a",
        lora=(f"{weights}/styles/ink.safetensors:0.500000",),
        motion=f"{weights}/mm.safetensors",
    )
    for choice, said in (
        (ModelChoice("/etc/passwd"), "model=/etc/passwd: give one of demo"),
        (ModelChoice("demo", lora="../x"), "lora=../x: give one of"),
        (ModelChoice("demo", motion=str(weights / "mm.safetensors")), "motion="),
        (
            ModelChoice("demo", lora="styles/ink.safetensors", lora_scale=float("nan")),
            "lora_scale=nan",
        ),
    ):
        with pytest.raises(FieldError, match=said):
            models.request(choice)
    with pytest.raises(FieldError, match="start serve with --weights_dir"):
        ServedModels(models.models, WeightFiles({}, {})).request(ModelChoice(lora="x"))


@pytest.fixture
def no_garbage(monkeypatch):
    """Collecting it takes a second among the modules of all tests."""
    monkeypatch.setattr(model_shelf.gc, "collect", lambda: 0)


@pytest.mark.usefixtures("no_garbage")
def test_the_longest_unused_model_goes_where_a_third_comes(monkeypatch):
    loaded = []

    class Pipe(model_shelf.Pipeline):
        def __init__(self):
            pass

        def watch_steps(self, on_step):
            pass

    def load(request):
        loaded.append(request.workdir)
        return Pipe()

    monkeypatch.setattr(model_shelf, "load_model", load)
    shelf = ModelShelf(lambda done, total: True)
    for name in "ababcab":
        shelf.pipeline(ModelRequest(name))
    assert loaded == [*"abcab"]


@pytest.mark.usefixtures("no_garbage")
def test_a_run_is_read_again_when_it_has_a_newer_checkpoint(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(
        model_shelf, "load_model", lambda request: loaded.append(request) or _Silent()
    )
    shelf = ModelShelf(lambda done, total: True)
    (tmp_path / "checkpoints").mkdir()
    for _ in range(2):
        shelf.pipeline(ModelRequest(str(tmp_path)))
    (tmp_path / "checkpoints" / "100").mkdir()
    shelf.pipeline(ModelRequest(str(tmp_path)))
    assert len(loaded) == 2


class _Silent(model_shelf.Pipeline):
    def __init__(self):
        pass

    def watch_steps(self, on_step):
        pass


def test_the_folder_of_clips_keeps_the_newest_and_goes_with_its_page():
    with ResultFolder(most=2) as results:
        folder = results.path
        names = []
        for _ in range(3):
            names.append(results.new_clip())
            for ending in CLIP_ENDINGS:
                (folder / f"{names[-1]}.{ending}").write_bytes(b"x")
        assert results.file(f"{names[0]}.mp4") is None
        assert results.file(f"{names[2]}.mp4") == folder / f"{names[2]}.mp4"
        (folder / f"{'0' * 32}.mp4").symlink_to("/etc/passwd")
        for name in (
            f"{'0' * 32}.mp4",
            f"../{folder.name}/{names[2]}.mp4",
            f"{names[2]}.mp4\n",
            "",
        ):
            assert results.file(name) is None
    assert not folder.exists()


@pytest.mark.parametrize(
    ("path", "frames", "size", "said"),
    [
        (None, 1, (8, 8), "--clip: give a video"),
        ("/etc/passwd", 1, (8, 8), "--clip: this is no upload"),
        ("{folder}/../secret.mp4", 1, (8, 8), "--clip: this is no upload"),
        ("{folder}/link.mp4", 1, (8, 8), "--clip: this is no upload"),
        ("{folder}/a.exe", 1, (8, 8), "--clip=a.exe: give a file that ends in"),
        ("{folder}/a.mp4", 0, (8, 8), "--frames=0"),
        ("{folder}/a.mp4", 999, (8, 8), "--frames=999"),
        ("{folder}/a.mp4", 1, (7, 8), "--size=7x8"),
        ("{folder}/a.mp4", 1, (8, 2**14), "--size=8x16384"),
        ("{folder}/a.mp4", 1, (8, 8), "--clip=a.mp4: cannot be opened"),
    ],
)
def test_an_upload_is_checked_before_it_is_used(tmp_path, path, frames, size, said):
    folder = tmp_path / "uploads"
    folder.mkdir()
    for file in (tmp_path / "secret.mp4", folder / "a.mp4", folder / "a.exe"):
        file.write_bytes(b"secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    given = path and path.format(folder=folder)
    reading = uploaded_frames(given, within=folder, frames=frames, size=size)
    with pytest.raises(UserError, match=said), reading:
        pass


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port=70000"], "--port=70000: give 0"),
        (["--max_upload=0"], "--max_upload=0"),
        (["--workdir=/nowhere", "--weights_dir=/nowhere", "--port=0"], "--weights_dir=/nowhere"),
        (["--host=no.such.host.invalid", "--port=0"], "--host=no.such.host.invalid"),
    ],
)
def test_a_mistake_of_serve_is_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["serve", *arguments])
    with pytest.raises(SystemExit) as end:
        serve.main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_without_gradio_serve_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["serve"])
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        serve.main()
    assert end.value.code == 2
    assert "requirements-serve.txt" in capsys.readouterr().err
