"""Uploads on the page: a decoder that hangs costs its upload, and the page says so and goes on."""

import subprocess

import pytest
from served_here import served_here

from magicvideo_jax.media import decoder_pool
from magicvideo_jax.serving import uploads
from magicvideo_jax.serving.serving import ServeRequest


@pytest.fixture
def refine(page):
    """A function that uploads a file of these bytes and asks for its refinement."""
    with served_here(ServeRequest(("nothing",), interpolate="nothing.pt")) as url:
        page.goto(url)
        page.get_by_role("tab", name="Refine").click()
        panel = page.get_by_role("tabpanel").filter(has=page.locator("#refine"))
        panel.get_by_label("Prompt", exact=True).fill("a red star")

        def start(name: str, data: bytes) -> None:
            if clear := page.locator("#upload [aria-label='Clear']").all():
                clear[0].click()
            file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
            page.set_input_files("#upload input[type=file]", file)
            page.locator("#upload [aria-label='Clear']").wait_for()
            page.click("#refine")

        yield start


def test_a_decoder_that_hangs_is_said_and_the_page_goes_on(refine, page, expect, monkeypatch):
    refusal = page.locator("#refine-status .mv-refusal")
    hanging = ["sleep", "600"]
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "DECODE_SECONDS", 0.5)
        patch.setattr(
            decoder_pool,
            "_start",
            lambda: subprocess.Popen(hanging, stdin=subprocess.PIPE, stdout=subprocess.PIPE),
        )
        refine("slow.mp4", b"a clip")
        expect(refusal).to_have_text("--clip=slow.mp4: takes longer than 0.5 s to decode")
    refine("broken.mp4", b"no clip")
    expect(refusal).to_contain_text("--clip=broken.mp4: cannot be opened")
