"""The page in a browser: a person samples, compares, cancels and is refused, also after a sampler was killed."""

import json
import os
import re
import signal
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from served_run import served, untrained_run

from magicvideo_jax.media.clip_comment import read_comment

pytest.importorskip("gradio", reason="needs gradio: pip install -r requirements-serve.txt")

EVIL = 'a <b id=evil>red</b> star <img src=x onerror="window.evil=1"> ${window.evil=1} {{1+1}}'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = [untrained_run(folder / name) for name in ("first", "second")]
    arguments = [f"--workdir={run}" for run in runs]
    with served(*arguments, log=folder / "log") as page:
        yield page


@pytest.fixture
def at(site, page, expect):
    """The tab, at the page."""
    return visit(page, site.url, expect)


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
    assert at.evaluate("document.querySelector('video').videoWidth") == 16
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
    again = open_tab()
    again.goto(site.url + at.locator(".mv-again").get_attribute("href"))
    expect(field(again, "Prompt")).to_have_value("a blue ring")
    expect(field(again, "Seed")).to_have_value(field(at, "Seed").input_value())
    expect(again.locator("#random-seed input")).not_to_be_checked()
    again.click("#sample")
    is_done(again, expect)
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
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
    ],
)
def test_refusals_are_text_that_names_the_argument(at, expect, changes, said):
    sample(at, **changes)
    expect(refusal(at)).to_contain_text(said, timeout=180_000)


def test_a_link_is_checked_as_the_arguments_are(site, page, expect):
    for query, said in (
        ({"steps": "x"}, "--steps=x: give a whole number"),
        ({"model": "../../etc/passwd"}, "--model=../../etc/passwd: give one of first, second"),
        ({"lora": "/etc/passwd", "prompt": "a"}, "--lora=/etc/passwd: give one of none"),
        ({"prompt": "a" * 12_000}, "--prompt has 12000 letters"),
    ):
        page.goto(f"{site.url}/?{urlencode(query)}")
        expect(refusal(page)).to_contain_text(said)


def test_a_cancelled_clip_ends_and_the_next_begins(at, expect):
    sample(at, Steps="500", FreeInit_rounds="50")
    expect(at.locator("#sample-status")).to_contain_text("of 25000", timeout=180_000)
    at.click("#cancel")
    expect(at.locator("#sample-status")).to_contain_text("Cancelled")
    sample(at, Steps="2", FreeInit_rounds="")
    is_done(at, expect)


def test_two_tabs_wait_for_one_another_and_see_their_place(site, at, expect, open_tab):
    second = visit(open_tab(), site.url, expect)
    sample(at, Steps="500", FreeInit_rounds="50")
    expect(at.locator("#sample-status")).to_contain_text("of 25000", timeout=180_000)
    sample(second, "a white cross")
    expect(second.locator("#sample-status")).to_contain_text(re.compile(r"queue: 1/1"))
    at.close()  # whoever leaves gives the device back
    is_done(second, expect)
    expect(second.locator(".mv-prompt")).to_have_text("a white cross")


def test_a_killed_sampler_is_said_and_replaced(site, at, expect):
    sample(at, Steps="500", FreeInit_rounds="50")
    expect(at.locator("#sample-status")).to_contain_text("of 25000", timeout=180_000)
    old = site.sampler()
    os.kill(old, signal.SIGKILL)
    expect(refusal(at)).to_contain_text("was ended by SIGKILL")
    sample(at, Steps="2", FreeInit_rounds="")
    is_done(at, expect)
    assert site.sampler() != old
