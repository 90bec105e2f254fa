"""The claims' runner with tiny networks, and its counts of arithmetic, which two other programs have made before."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_experiment import tiny
from verbs_in_process import run_main

from benchmarks.claims import one_run
from benchmarks.claims.ablation import Ablation
from benchmarks.claims.ablations import ABLATIONS
from benchmarks.claims.arithmetic import RATIOS, count_all
from benchmarks.claims.one_run import OneRun
from benchmarks.claims.readings import speed_by_rate
from benchmarks.claims.side_by_side_runs import Task, run_side_by_side, shares_of_cores
from benchmarks.claims.stand_ins import STAND_INS, write_once
from benchmarks.claims.table import mean_and_spread, score_table, training_seconds
from magicvideo_jax.core.dataclass_dict import to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import write_json
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.data.drawn.scene import FPS, HEADING
from magicvideo_jax.data.drawn.shape_clips import draw_clip, held_out_scenes
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.stages.registry import check_fitted

TMAC = {
    "VDM, as published": 3.43,
    "VDM, small": 0.88,
    "VDM at 256 pixels, attention at 32": 48.1,
    "VDM at 256 pixels, attention at 128, 64, 32": 78.4,
    "VDM on latents, attention at 16, 8, 4": 0.838,
    "MagicVideo": 1.522,
}
SETTINGS = {
    **flatten(to_plain(tiny())),
    "evaluate.metrics": ("caption_accuracy",),
    "model.unet.levels": ({"width": 8, "heads": 2},),
    "model.vae.kind": "pixels",
    "model.vae.latent_channels": 48,
    "model.vae.scaling": 1.0,
    "model.unet.channels_in": 48,
    "model.unet.channels_out": 48,
}
for name in ("seed", "train.steps"):
    del SETTINGS[name]
"""The tiny experiment, on pixels."""
SEQUENTIAL = Ablation(
    "sequential",
    "one after the other",
    config="vdm",
    changes={"model.unet.temporal.mixing": "sequential"},
    readings={"size": lambda workdir: {"files": float(len(list(workdir.iterdir())))}},
    has_own_latents=True,
)


@pytest.fixture(scope="module")
def tmac() -> dict[str, float]:
    return count_all()


def test_arithmetic_is_what_two_other_counts_have_found(tmac):
    assert {name: tmac[name] for name in TMAC} == pytest.approx(TMAC, rel=0.01)


def test_the_claim_of_64_is_the_ratio_of_pixels(tmac):
    ratios = [tmac[ratio.dear] / tmac[ratio.cheap] for ratio in RATIOS]
    assert ratios == pytest.approx([64.2, 226, 57.4, 93.5, 31.6, 51.5, 2.25], rel=0.01)


def test_an_ablation_changes_what_it_says_and_nothing_else(tmp_path):
    names = [ablation.name for ablation in ABLATIONS]
    assert len(set(names)) == len(names)
    (reference,) = (fields(one, tmp_path) for one in ABLATIONS if one.name == "reference")
    for ablation in ABLATIONS:
        assert set(ablation.names_of_others) <= {*names, *STAND_INS}
        here = fields(ablation, tmp_path)
        changed = {path for path, value in here.items() if value != reference[path]}
        if ablation.config == "t2v":
            allowed = {*ablation.changes, *(["train.steps"] if ablation.length != 1 else [])}
            assert changed == allowed, ablation.name


def fields(ablation: Ablation, root: Path) -> dict:
    return flatten(to_plain(OneRun(ablation, 0, root, steps=600).experiment))


def test_stand_in_weights_are_opened_by_the_runs_that_begin_with_them(tmp_path):
    for name in ("unlabelled", "pixels"):
        (ablation,) = (one for one in ABLATIONS if one.name == name)
        one = OneRun(ablation, 0, tmp_path, steps=100)
        for other in ablation.names_of_others:
            write_once(other, tmp_path / "weights" / other)
        experiment = one.experiment
        model = initial_of(experiment).fitted(experiment.model)
        check_fitted(replace(experiment, model=model))
    assert model.unet == experiment.model.unet
    assert model.noise == experiment.model.noise


@pytest.fixture(scope="module")
def runs(tmp_path_factory, one_device) -> list[OneRun]:
    """One that was made, and a copy with other scores in the place of another seed's."""
    root = tmp_path_factory.mktemp("runs")
    one, other = (OneRun(SEQUENTIAL, seed, root, 2, SETTINGS) for seed in (0, 1))
    assert not one.is_finished
    one.make()
    assert one.is_finished
    shutil.copytree(one.workdir, other.workdir)
    write_json(other.workdir / "metrics.json", {"caption_accuracy": {"shape": 0.75}})
    return [one, other]


def test_what_is_finished_is_not_run_again(runs, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(one_run, "run", fail)
    runs[0].make()
    again = Ablation("later", "", changes={"init_from": "{sequential}"}, config="vdm")
    monkeypatch.setattr(one_run, "ABLATIONS", (SEQUENTIAL, again))
    later = replace(runs[0], ablation=again)
    assert [one.workdir for one in later.before] == [runs[0].workdir]
    with pytest.raises(AssertionError, match="run again"):
        later.make()


def test_a_run_that_was_killed_goes_on(runs):
    one = runs[0]
    log, scores = (one.workdir / "metrics.jsonl").read_text(), one.scores
    (one.workdir / "metrics.json").unlink()
    assert not one.is_finished
    one.make()
    assert (one.workdir / "metrics.jsonl").read_text() == log  # no step was taken again
    assert one.scores == scores


def test_a_folder_of_other_settings_is_refused(runs):
    with pytest.raises(UserError, match=r"sequential/0: a run with config\.train\.steps=2, not 3"):
        replace(runs[0], steps=3).make()


def test_a_run_before_a_field_was_added_is_of_the_same_settings(runs, tmp_path):
    old = replace(runs[0], root=tmp_path)
    requested = json.loads((runs[0].workdir / "requested.json").read_text())
    del requested["config"]["sample"]["split"]
    write_json(old.workdir / "requested.json", requested)
    old.check()


def test_a_row_is_the_mean_over_seeds(runs):
    header, _, row = score_table(runs)
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    shapes = [100 * runs[0].scores["caption_accuracy"]["shape"], 75.0]
    assert cells["shape"] == f"{np.mean(shapes):.1f} ± {np.std(shapes, ddof=1):.1f} %"
    assert cells["held-out loss"] == "-"  # of other latents
    assert cells["steps"] == "2"
    assert training_seconds(runs[0]) > 0
    assert mean_and_spread([1.0, 2.0, 3.0], digits=1) == "2.0 ± 1.0"
    assert mean_and_spread([1.0], digits=2, unit=" %") == "1.00 %"
    assert mean_and_spread([], digits=2) == "-"


def test_speeds_of_drawn_clips_follow_their_frame_rates():
    scenes = [one for one in held_out_scenes(2101, 40) if one.truth.motion in HEADING][:6]
    pairs = [(scene, float(fps)) for fps in FPS for scene in scenes]
    rates = [fps for _, fps in pairs]
    clips = [draw_clip(replace(scene, fps=fps)).pixels for scene, fps in pairs]
    obeyed = speed_by_rate(clips, rates)
    assert obeyed["clips"] == len(clips)
    assert obeyed["correlation"] > 0.95
    assert obeyed["slow_over_fast"] == pytest.approx(FPS[-1] / FPS[0], rel=0.05)
    same = speed_by_rate([draw_clip(scene).pixels for scene, _ in pairs], rates)
    assert abs(same["correlation"]) < 0.1
    empty = speed_by_rate([np.zeros_like(clips[0]), clips[0]], rates[:2])
    assert empty == {"clips": 1.0}


def task(folder: Path, name: str, program: str) -> Task:
    return Task(name, [sys.executable, "-c", program], folder / f"{name}.log")


def test_tasks_have_cores_of_their_own_and_one_that_fails_does_not_end_the_others(tmp_path):
    cores = (
        "import json, os, time; time.sleep(.3); print(json.dumps(sorted(os.sched_getaffinity(0))))"
    )
    tasks = [
        task(tmp_path, "fails", "raise SystemExit('the reason')"),
        *(task(tmp_path, f"works{i}", cores) for i in range(2)),
    ]
    said: list[str] = []
    failed = run_side_by_side(tasks, jobs=2, say=said.append, folder=tmp_path)
    assert failed == tasks[:1]
    assert tasks[0].log.read_text() == "the reason\n"
    assert any(line.startswith("fails: failed with code 1") for line in said)
    shares = [list(share) for share in shares_of_cores(2)]
    assert all(json.loads(one.log.read_text()) in shares for one in tasks[1:])
    assert shares_of_cores(1) == [tuple(sorted(os.sched_getaffinity(0)))]


def test_what_still_runs_is_ended_with_the_command(tmp_path):
    def leave(_: str) -> None:
        raise KeyboardInterrupt

    sleeps = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    waits = f"import os, time\nwhile not os.path.getsize({str(tmp_path / 'sleeps.log')!r}): time.sleep(.05)"
    tasks = [task(tmp_path, "sleeps", sleeps), task(tmp_path, "waits", waits)]
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(tasks, jobs=2, say=leave, folder=tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int(tasks[0].log.read_text()), 0)


def test_an_unknown_ablation_is_named(capsys):
    with pytest.raises(AssertionError, match="exit code 2"):
        run_main(["benchmarks.claims", "table", "--workdir=x", "--only=nope"])
    assert "--only=nope: no ablation; there are pixels, reference" in capsys.readouterr().err
