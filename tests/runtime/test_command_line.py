"""Configs are found by name from any folder, and what is wrong with one is a line."""

import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.command_line import CONFIGS, config_path, parse

MINE = "from ml_collections import ConfigDict\n\ndef get_config(preset=''):\n"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(monkeypatch):
    """A command line with a config, on flags of its own."""
    own = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", own)
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # the config read before
    holder = config_flags.DEFINE_config_file("config", None, "", flag_values=own)

    def parsed(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        parse(lambda path: None)
        return holder.value

    return parsed


@pytest.mark.parametrize("name", ["t2v", "t2v.py", "configs/t2v.py", "configs/t2v"])
@pytest.mark.parametrize("preset", ["", ":sd15", ":a:b"])
def test_a_config_is_found_by_name_from_any_folder(elsewhere, name, preset):
    assert config_path(name + preset) == f"{CONFIGS / 't2v.py'}{preset}"


@pytest.mark.parametrize("name", ["t2v", "t2v.py", "configs/t2v.py"])
def test_a_file_of_ones_own_comes_first(elsewhere, name):
    (elsewhere / name).parent.mkdir(exist_ok=True)
    (elsewhere / name).write_text("")
    assert config_path(f"{name}:sd15") == f"{elsewhere / name}:sd15"


def test_a_folder_of_that_name_is_no_file(elsewhere):
    (elsewhere / "t2v").mkdir()
    assert config_path("t2v") == str(CONFIGS / "t2v.py")


@pytest.mark.parametrize(
    "name", ["t2vv", "__init__", "other/t2v.py", "../configs/t2v.py", "/t2v", "configs/", "train"]
)
def test_an_unknown_name_lists_what_there_is(elsewhere, name):
    with pytest.raises(
        UserError, match=f"^--config={name}: no such file.*t2i, t2v, vae, vdm, video_v"
    ):
        config_path(f"{name}:sd15")


@pytest.mark.parametrize("text", ["", ":sd15"])
def test_an_empty_name_is_said_to_be_empty(elsewhere, text):
    with pytest.raises(UserError, match=r"^--config is empty"):
        config_path(text)


def test_a_url_is_refused(elsewhere):
    with pytest.raises(UserError, match=r"^--config=gs://bucket/t2v\.py:sd15: only local paths"):
        config_path("gs://bucket/t2v.py:sd15")


@pytest.mark.parametrize("given", [["--config=mine"], ["--config", "mine"], ["-config=mine"]])
def test_every_spelling_of_the_flag_is_read(elsewhere, train, given):
    (elsewhere / "mine").write_text(f"{MINE}    return ConfigDict({{'lr': 1.0}})\n")
    assert train(*given, "--config.lr=0.5").lr == 0.5


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return nothing", "line 4: NameError: name 'nothing' is not defined"),
        ("return = 3", "line 4: SyntaxError: invalid syntax"),
        ("import nowhere", "line 4: ModuleNotFoundError: No module named 'nowhere'"),
        ("return {}['k']", "line 4: KeyError: 'k'"),
        ("return int('x')", "line 4: ValueError: invalid literal for int"),
        ("open('nowhere')", "line 4: FileNotFoundError"),
    ],
)
def test_a_mistake_inside_a_config_names_the_file_and_the_line(elsewhere, train, body, said):
    (elsewhere / "mine.py").write_text(f"{MINE}    {body}\n")
    with pytest.raises(UserError) as error:
        train("--config=mine.py:preset")
    assert str(error.value).startswith(f"--config={elsewhere / 'mine.py'}, {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "defines no get_config"),
        ("def get_config():\n    pass\n", "takes 0 positional arguments"),
    ],
)
def test_a_file_that_is_no_config_says_what_it_lacks(elsewhere, train, text, said):
    (elsewhere / "mine.py").write_text(text)
    with pytest.raises(UserError, match=f"^--config={elsewhere / 'mine.py'}: .*{said}"):
        train("--config=mine.py:preset")


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("config.speed", ""),
        ("config.optim.speed", ""),
        ("config.optimm.lr", "; did you mean optim"),
        ("config.optim.lrr", "; did you mean lr"),
    ],
)
def test_an_unknown_field_is_named_by_its_whole_path(elsewhere, train, field, hint):
    (elsewhere / "mine.py").write_text(f"{MINE}    return ConfigDict({{'optim': {{'lr': 1.0}}}})\n")
    with pytest.raises(UserError) as error:
        train("--config=mine.py", "--config.optim.lr=2", f"--{field}=3")
    assert str(error.value) == f"{field}: no such field{hint}"
