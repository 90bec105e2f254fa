"""The fixtures of this folder: a page is served, opened, and watched for what it must not do."""

import gradio as gr
import pytest


def greeting(script: str = "") -> gr.Blocks:
    """A page that greets, and runs `script` in the browser when it is opened."""
    with gr.Blocks() as blocks:
        name, answer = gr.Textbox(label="Name"), gr.Textbox(label="Answer")
        name.submit(lambda text: f"Hello {text}", name, answer)
        blocks.load(None, js=f"() => {{ {script} }}")
    return blocks


def greet(page, expect) -> None:
    page.get_by_label("Name").fill("you")
    page.get_by_label("Name").press("Enter")
    expect(page.get_by_label("Answer")).to_have_value("Hello you")


def test_a_served_page_answers_and_asks_only_this_machine(serve_blocks, page, expect, visits):
    page.goto(serve_blocks(greeting()))
    greet(page, expect)
    assert len(visits[0].asked) > 3


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        ("fetch('http://192.0.2.1/a').catch(() => 0)", r"the page asked for .*192\.0\.2\.1"),
        ("setTimeout(() => { throw Error('wrong') })", "wrong"),
    ],
)
def test_a_request_to_the_network_and_an_uncaught_error_are_seen(
    serve_blocks, page, expect, visits, script, seen
):
    page.goto(serve_blocks(greeting(script)))
    greet(page, expect)
    with pytest.raises(AssertionError, match=seen):
        visits[0].check()
    visits.clear()
