"""The queue of all that samples: one request at a time, whatever tab it comes from; others see their place in it."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr

from magicvideo_jax.serving.clip_cards import cancelled_html

FormUpdates = dict[Any, Any]
"""New values of components."""

_NAME = "sampler"


def queue_clips(
    triggers: Sequence[Any],
    stop: gr.Button,
    make: Callable[..., AsyncIterator[FormUpdates]],
    *,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> None:
    """Let `triggers` (events) run `make` in the queue, and `stop` end it, waiting or running.

    The first of `outputs` is the status, which shows the place in the queue.
    """
    running = gr.on(
        [*triggers],
        make,
        [*inputs],
        [*outputs],
        concurrency_id=_NAME,
        concurrency_limit=1,
        show_progress_on=[outputs[0]],
        api_visibility="private",
    )
    # Ending it closes the generator, whose end cancels the job (`SamplerProcess.answers`). The last step may reach
    # the browser after the first answer to the click: the second one stays.
    ended = stop.click(cancelled_html, outputs=[outputs[0]], cancels=[running], **AT_ONCE)
    ended.then(cancelled_html, outputs=[outputs[0]], **AT_ONCE)


AT_ONCE: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Options of an event that waits for nothing and is no interface for programs."""
