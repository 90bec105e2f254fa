"""The same command goes on; what a rerun may change it takes, what it may not it names."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_experiment import tiny

from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.data.records import METADATA, SETTINGS
from magicvideo_jax.experiment.config import Experiment, SourceConfig, read_experiment
from magicvideo_jax.experiment.run_folder import MAY_CHANGE, RunFolder

OLD_CONFIG = Path(__file__).parent / "config_before_renames.json"


def folder_of(asked: Experiment, workdir: Path, *, fitted: Experiment | None = None) -> RunFolder:
    """A work folder as the first start of a run leaves it; weights may have fitted its networks."""
    folder = RunFolder(workdir)
    folder.create()
    folder.write_config(fitted or asked)
    folder.write_requested(asked)
    return folder


def changed(experiment: Experiment, **fields) -> Experiment:
    """Fields by their path, with __ for the dot."""
    new = {name.replace("__", "."): value for name, value in fields.items()}
    return read_experiment(unflatten(flatten(to_plain(experiment)) | new))


def data_set(path: Path, said: str = "") -> str:
    path.mkdir()
    (path / METADATA).write_text('{"name": "clips"}')
    (path / SETTINGS).write_text(json.dumps({"videos": said}))
    return str(path)


def learning_from(*paths: str, **fields) -> Experiment:
    sources = tuple(SourceConfig(path, **fields) for path in paths)
    return replace(tiny(), data=replace(tiny().data, sources=sources))


@pytest.mark.parametrize(
    "change",
    [
        {"data__workers": 2},
        {"evaluate__batch_size": 1},
        {"evaluate__clips": 8},
        {"train__steps": 6},
        {"train__log_every": 1},
        {"train__wandb_project": "mine"},
        {"mesh__fsdp": 2},
        {"optim__lr": 1e-5},
        {"sample__guidance": 2.0},
        {"decode__frames": 1},
        {"model__remat": "full"},
        {"model__compute": "bfloat16"},
    ],
    ids=str,
)
def test_a_rerun_takes_what_it_may_change(change, tmp_path):
    again = changed(tiny(), **change)
    assert folder_of(tiny(), tmp_path).continued(again, done=4) == again


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "config.seed=1: the run in --workdir={} has 0"),
        (
            {"model__noise__prediction_type": "v_prediction"},
            "config.model.noise.prediction_type=v_prediction: the run in --workdir={} has epsilon",
        ),
        ({"model__unet__blocks": 2}, "config.model.unet.blocks=2: the run in --workdir={} has 1"),
        ({"model__unet__temporal": None}, "config.model.unet.temporal"),
        ({"model__trained": ("vae",)}, "config.model.trained=('vae',): the run in"),
        ({"optim__freeze": "adaptor"}, "config.optim.freeze=adaptor: the run in"),
        ({"optim__decay_kernels_only": True}, "config.optim.decay_kernels_only=True: the run in"),
        ({"optim__kernels": "muon"}, "config.optim.kernels=muon: the run in"),
        ({"data__size": 32}, "config.data.size=32: the run in --workdir={} has 16"),
        ({"denoising__caption_dropout": 0.5}, "config.denoising.caption_dropout=0.5: the run in"),
        (
            {"init_from": "embedded"},
            "config.init_from=embedded: the run in --workdir={} has scratch",
        ),
        ({"train__steps": 3}, "config.train.steps=3: the run in --workdir={} has done 4 steps"),
    ],
    ids=str,
)
def test_a_rerun_names_what_it_may_not_change(change, said, tmp_path):
    with pytest.raises(UserError) as raised:
        folder_of(tiny(), tmp_path).continued(changed(tiny(), **change), done=4)
    assert str(raised.value).startswith(said.format(tmp_path))
    assert "give" in str(raised.value)


def test_every_path_of_the_table_is_a_field():
    paths = set(flatten(to_plain(tiny())))
    for path in filter(None, MAY_CHANGE):
        assert any(f"{field}.".startswith(f"{path}.") for field in paths), path


def test_the_same_command_goes_on_whatever_numbers_the_weights_gave_the_networks(tmp_path):
    """What was asked for is compared, and not what came of it."""
    asked = tiny()
    fitted = changed(asked, model__unet__blocks=2, model__noise__prediction_type="v_prediction")
    folder = folder_of(asked, tmp_path, fitted=fitted)
    assert folder.continued(asked, done=4).model == fitted.model


def test_a_data_set_may_have_moved_or_be_spelled_in_another_way(tmp_path):
    there = data_set(tmp_path / "set")
    folder = folder_of(learning_from(there), tmp_path / "run")
    folder.continued(learning_from(f"{tmp_path}/./set"), done=0)
    folder.continued(learning_from(f"{tmp_path}/run/../set"), done=0)
    shutil.move(there, tmp_path / "moved")
    again = learning_from(str(tmp_path / "moved"))
    assert folder.continued(again, done=0) == again


def test_other_data_is_refused_at_any_path(tmp_path):
    there, other = data_set(tmp_path / "set"), data_set(tmp_path / "other", "of others")
    folder = folder_of(learning_from(there), tmp_path / "run")
    for asked, said in (
        (learning_from(other), rf"config\.data\.sources\[0\]\.path={other}: .* has {there}"),
        (learning_from("shapes"), rf"config\.data\.sources\[0\]\.path=shapes: .* has {there}"),
        (learning_from(there, other), r"config\.data\.sources\[1\]\.path="),
        (learning_from(there, weight=2.0), r"config\.data\.sources\[0\]\.weight=2\.0: .* has 1\.0"),
    ):
        with pytest.raises(UserError, match=said):
            folder.continued(asked, done=0)
    (Path(there) / SETTINGS).write_text("{}")
    with pytest.raises(UserError, match="has other data at this path"):
        folder.continued(learning_from(there), done=0)


def test_weights_may_be_spelled_in_another_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = folder_of(replace(tiny(), init_from="weights"), tmp_path / "run")
    folder.continued(replace(tiny(), init_from=f"{tmp_path}/run/../weights"), done=0)
    with pytest.raises(UserError, match=r"config\.init_from=others"):
        folder.continued(replace(tiny(), init_from="others"), done=0)


def test_a_work_folder_from_before_fields_were_renamed_is_read(tmp_path):
    shutil.copy(OLD_CONFIG, tmp_path / "config.json")
    experiment = RunFolder(tmp_path).experiment()
    assert experiment == changed(
        tiny(),
        seed=3,
        data__uncaptioned_fraction=0.25,
        data__precompute_examples=64,
        denoising__caption_dropout=0.2,
        evaluate__batch_size=4,
        optim__grad_clip_norm=0.5,
        optim__ema_decay=0.9,
        video_vae__frame_difference_weight=2.0,
        video_vae__image_weight=0.5,
        video_vae__frames_per_clip=3,
    )
    # It kept no requested.json: the numbers of its networks may have come from weights.
    asked = changed(experiment, model__unet__blocks=2)
    assert RunFolder(tmp_path).continued(asked, done=4) == experiment
    with pytest.raises(UserError, match=r"config\.seed=4: the run in --workdir=.* has 3"):
        RunFolder(tmp_path).continued(replace(experiment, seed=4), done=4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "holds no fields"),
        (b'{"seed": "\xff"}', "cannot be read"),
        (b'{"optim": {"lr": NaN}}', r"config\.optim\.lr=nan: give more than 0"),
        (b'{"optim": 3}', r"config\.optim=3: give fields"),
        (b'{"_class_name": "VAE"}', r"config\._class_name: no such field"),
    ],
    ids=str,
)
def test_a_broken_config_is_named_with_its_file(content, said, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/config\.json: .*{said}"):
        RunFolder(tmp_path).experiment()
