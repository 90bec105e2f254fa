"""The page in a browser: a person samples, compares, cancels and is refused, also after a sampler was killed."""

import io
import json
import os
import re
import signal
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from served_run import served, untrained_run
from tiny_motion import original_keys, random_folder, tiny_adapter
from torch_lora import ATTENTION, kohya, random_lora, save_lora, tensors_of

from magicvideo_jax.media.clip_comment import read_comment

pytest.importorskip("gradio", reason="needs gradio: pip install -r requirements-serve.txt")

EVIL = 'a <b id=evil>red</b> star <img src=x onerror="window.evil=1"> ${window.evil=1} {{1+1}}'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page with two runs, image weights of Stable Diffusion's form, and files that may be put into these."""
    folder = tmp_path_factory.mktemp("page")
    runs = [untrained_run(folder / name) for name in ("first", "second")]
    (folder / "pictures").symlink_to(random_folder())
    (folder / "files").mkdir()
    lora = random_lora(random_folder(), ATTENTION, rank=2, text=False)
    save_lora(folder / "files" / "ink.safetensors", tensors_of(lora, kohya))
    save_file(original_keys(tiny_adapter()), folder / "files" / "walk.safetensors")
    arguments = [f"--workdir={model}" for model in (*runs, folder / "pictures")]
    with served(*arguments, f"--weights_dir={folder / 'files'}", log=folder / "log") as page:
        yield page


@pytest.fixture
def at(site, lasting_tab, expect):
    """The tab, at the page as it is when it is opened."""
    return visit(lasting_tab, site.url, expect)


def field(page, label, within="body"):
    return page.locator(within).get_by_label(label, exact=True).first


def visit(page, url, expect):
    """The page when it has its model's settings, which are unfolded."""
    page.goto(url)
    page.get_by_text("Settings", exact=True).first.click()
    expect(field(page, "Steps")).to_have_value("2")
    return page


def sample(page, prompt="a red star", **changes):
    field(page, "Prompt").fill(prompt)
    for label, value in changes.items():
        field(page, label.replace("_", " ")).fill(value)
    page.click("#sample")


def is_done(page, expect, where="#sample-status", seconds=180):
    expect(page.locator(where)).to_contain_text(re.compile(r"clips? in \d"), timeout=seconds * 1000)


def refusal(page):
    return page.locator("#sample-status .mv-refusal")


def test_a_clip_is_sampled_and_its_files_hold_its_settings(site, at, expect, tmp_path):
    sample(at, EVIL)
    is_done(at, expect)
    expect(at.locator(".mv-prompt")).to_have_text(EVIL)
    assert at.locator("#evil").count() == 0
    assert at.evaluate("window.evil") is None
    at.wait_for_function("document.querySelector('video').videoWidth === 16")
    seed = field(at, "Seed").input_value()
    for link in at.locator(".mv-links a[download]").all():
        url = site.url + link.get_attribute("href")
        file = tmp_path / link.get_attribute("download")
        assert file.stem == f"a-b-id-evil-red-b-star-img_seed{seed}"
        file.write_bytes(urlopen(url).read())
        settings = json.loads(read_comment(file))
        assert settings["prompt"] == EVIL
        assert str(settings["seed"]) == seed
        assert settings["model"] == "first"


def test_the_link_asks_for_the_same_again(site, at, expect, open_tab):
    sample(at, "a blue ring", Negative_prompt="dull")
    is_done(at, expect)
    again = open_tab({"width": 390, "height": 700})
    again.goto(site.url + at.locator(".mv-again").get_attribute("href"))
    expect(field(again, "Prompt")).to_have_value("a blue ring")
    expect(field(again, "Seed")).to_have_value(field(at, "Seed").input_value())
    expect(again.locator("#random-seed input")).not_to_be_checked()
    again.click("#sample")
    is_done(again, expect)
    expect(again.locator("#sample-status")).to_be_in_viewport()  # on a phone, too
    clips = [
        urlopen(site.url + tab.locator(".mv-links a").nth(1).get_attribute("href")).read()
        for tab in (at, again)
    ]
    assert clips[0] == clips[1]
    assert again.locator(".mv-clip").get_attribute("data-compiled") == "0"


def test_four_seeds_follow_one_another(at, expect):
    at.get_by_label("four seeds").check()
    at.locator("#random-seed input").uncheck()
    sample(at, Seed="7")
    is_done(at, expect)
    facts = at.locator(".mv-facts").all_inner_texts()
    assert [re.search(r"seed (\d+)", text)[1] for text in facts] == ["7", "8", "9", "10"]


def test_a_prompt_that_is_cut_is_said(at, expect):
    """The words are those of the command line."""
    sample(at, "a red star " * 8)
    is_done(at, expect)
    note = at.locator("#sample-status .mv-warning")
    expect(note).to_have_text(
        "Note: the text encoder reads 24 tokens; the end of a longer caption is cut: 'red star '"
    )


def choose(page, label, option):
    """Choose of a drop-down, which offers all that may be chosen."""
    page.get_by_label(label, exact=True).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_files_of_the_weight_folder_are_put_into_a_model(at, expect):
    lora, motion = (
        at.get_by_label(label, exact=True).first for label in ("LoRA", "Motion modules")
    )
    expect(motion).to_be_disabled()  # a run has layers of its own
    choose(at, "LoRA", "ink.safetensors")
    sample(at, Steps="1")
    expect(refusal(at)).to_contain_text("ink.safetensors does not fit", timeout=180_000)
    assert "files/ink.safetensors" not in refusal(at).inner_text()  # its place on the server

    choose(at, "Model", "pictures")
    expect(motion).to_be_enabled()
    lora.click()
    offered = [re.compile(r"\bnone$"), re.compile(r"\bink\.safetensors$")]  # behind a mark
    expect(at.get_by_role("option")).to_have_text(offered)
    at.keyboard.press("Escape")
    choose(at, "Motion modules", "walk.safetensors")
    sample(at, Steps="1", Frames="2", Height_x_width="16x16", LoRA_scale="0.5")
    is_done(at, expect, seconds=300)
    facts = at.locator(".mv-facts").inner_text()
    assert facts.startswith("pictures")
    assert "ink.safetensors × 0.5 · walk.safetensors · 2 frames of 16 × 16" in facts
    assert at.locator(".mv-clip").get_attribute("data-compiled") != "0"


def picture(name: str) -> dict:
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def test_a_clip_starts_from_an_uploaded_picture(at, expect):
    at.get_by_text("Start from a picture or a video", exact=True).click()
    at.set_input_files("#source input[type=file]", picture("boat.png"))
    at.locator("#source [aria-label='Clear']").wait_for()
    sample(at)
    is_done(at, expect)
    assert at.get_by_text("Same again").count() == 0  # a link has no picture
    at.get_by_label("video to edit, or to go on with").check()
    sample(at, Strength="0.5")
    expect(refusal(at)).to_have_text("--video=boat.png: too short: 1 frames, and 2 are wanted")


def test_two_settings_are_compared_from_one_seed(at, expect):
    at.get_by_role("tab", name="Compare").click()
    shared = at.get_by_role("tabpanel").filter(has=at.locator("#compare"))
    shared.get_by_label("Prompt", exact=True).first.fill("a green heart")
    expect(at.locator("#side-b").get_by_label("Model")).to_have_value("second")
    at.locator("#side-b").get_by_label("Guidance", exact=True).fill("1.5")
    at.click("#compare")
    is_done(at, expect, "#compare-status")
    facts = at.locator("#compare-clips .mv-facts").all_inner_texts()
    assert len(facts) == 2
    assert facts[0].startswith("first")
    assert facts[1].startswith("second")
    assert "guidance 1.5" in facts[1]
    assert len({re.search(r"seed (\d+)", text)[1] for text in facts}) == 1
    at.locator("#side-a").get_by_label("Steps", exact=True).fill("no")
    at.click("#compare")
    expect(at.locator("#compare-status")).to_contain_text("A: --steps=no: give a whole number")


REFUSED = (
    ({"Steps": "0"}, "--steps=0: give at least 1"),
    ({"Steps": "2000"}, "--steps=2000: give 1 to 1000"),
    ({"Steps": "2.5"}, "--steps=2.5: give a whole number"),
    ({"Frames": "99"}, "--frames=99: this model's temporal layers know 2 frames"),
    ({"Guidance": "1e9"}, "--guidance=1000000000.0: give at most 1000"),
    ({"Height_x_width": "15x16"}, "--size=15x16: give multiples of"),
    ({"Height_x_width": "all"}, "--size=all: give height and width"),
    ({"Frame_rate": "-1"}, "--fps=-1.0"),
    ({"prompt": "  "}, "--prompt is empty"),
    ({"prompt": "a" * 10_001}, "--prompt has 10001 letters"),
)


def test_refusals_are_text_that_names_the_argument(at, expect):
    for changes, said in REFUSED:
        labels = [name.replace("_", " ") for name in changes if name != "prompt"]
        usual = {label: field(at, label).input_value() for label in labels}
        sample(at, **changes)
        expect(refusal(at)).to_contain_text(said, timeout=180_000)
        for label, value in usual.items():
            field(at, label).fill(value)


def test_a_link_is_checked_as_the_arguments_are(site, lasting_tab, expect):
    for query, said in (
        ({"steps": "x"}, "--steps=x: give a whole number"),
        ({"model": "../../etc/passwd"}, "--model=../../etc/passwd: give one of first,"),
        ({"lora": "/etc/passwd", "prompt": "a"}, "--lora=/etc/passwd: give one of ink"),
        ({"lora": "walk.safetensors", "model": "pictures"}, "--lora=walk.safetensors: give one of"),
        ({"prompt": "a" * 12_000}, "--prompt has 12000 letters"),
    ):
        lasting_tab.goto(f"{site.url}/?{urlencode(query)}")
        expect(refusal(lasting_tab)).to_contain_text(said)


def test_a_cancelled_clip_ends_and_the_next_begins(at, expect):
    sample(at, Steps="500", FreeInit_rounds="50")
    expect(at.locator("#sample-status")).to_contain_text("of 25000", timeout=180_000)
    at.click("#cancel")
    expect(at.locator("#sample-status")).to_contain_text("Cancelled")
    sample(at, Steps="2", FreeInit_rounds="")
    is_done(at, expect)


def test_two_tabs_wait_for_one_another_and_see_their_place(site, at, expect, open_tab):
    first = visit(open_tab(), site.url, expect)
    sample(first, Steps="500", FreeInit_rounds="50")
    expect(first.locator("#sample-status")).to_contain_text("of 25000", timeout=180_000)
    sample(at, "a white cross")
    expect(at.locator("#sample-status")).to_contain_text(re.compile(r"queue: 1/1"))
    first.close()  # whoever leaves gives the device back
    is_done(at, expect)
    expect(at.locator(".mv-prompt")).to_have_text("a white cross")


def test_a_killed_sampler_is_said_and_replaced(site, at, expect):
    sample(at, Steps="500", FreeInit_rounds="50")
    expect(at.locator("#sample-status")).to_contain_text("of 25000", timeout=180_000)
    old = site.sampler()
    os.kill(old, signal.SIGKILL)
    expect(refusal(at)).to_contain_text("was ended by SIGKILL")
    sample(at, Steps="2", FreeInit_rounds="")
    is_done(at, expect)
    assert site.sampler() != old


def test_the_page_is_for_this_machine_alone(site):
    assert urlsplit(site.url).hostname == "127.0.0.1"
    addresses = Path("/proc/net/tcp").read_text().split("\n")[1:]
    port = f"{urlsplit(site.url).port:04X}"
    listening = [line.split()[1] for line in addresses if f":{port} 00000000:0000 0A" in line]
    assert listening == [f"0100007F:{port}"]


def test_the_sampler_ends_with_its_page(site):
    """A page that is killed leaves nothing behind. The last test of this file."""
    sampler = site.sampler()
    site.process.kill()
    site.process.wait()
    for _ in range(200):
        if not Path(f"/proc/{sampler}").exists() or _is_zombie(sampler):
            return
        site.process.poll()
        time.sleep(0.1)
    raise AssertionError("the sampler outlives its page")


def _is_zombie(process: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True
