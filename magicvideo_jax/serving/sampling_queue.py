"""The queue of all that samples: one request at a time, whatever tab it comes from; others see their place in it."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.serving.clip_cards import (
    cancelled_html,
    clip_card,
    clips_html,
    done_html,
    progress_html,
    refusal_html,
)
from magicvideo_jax.serving.clip_job import MadeClip, Making, StepsDone
from magicvideo_jax.serving.sampler_process import SamplingFailed

FormUpdates = dict[Any, Any]
"""New values of components."""

_NAME = "sampler"
_SHOW = """() => {
    document.getElementById("%s").scrollIntoView({block: "nearest", behavior: "smooth"});
}"""


@dataclass(frozen=True)
class AskedClips:
    """Clips to make, one after the other."""

    makings: Sequence[Making]
    headings: Sequence[str] = ()
    """One for each clip; empty: none."""
    updates: Mapping[Any, Any] = field(default_factory=dict)
    """Values that the form shows while they are made."""


@dataclass(frozen=True)
class Results:
    """Where a tab shows what is made."""

    status: gr.HTML
    clips: gr.HTML


def queue_clips(
    triggers: Sequence[Any],
    stop: gr.Button,
    ask: Callable[..., AskedClips],
    *,
    inputs: Sequence[Any],
    results: Results,
    changed: Sequence[Any] = (),
) -> None:
    """Let `triggers` (events) make in the queue what `ask` says of the inputs, and `stop` end it, waiting or running.

    `ask` refuses by a `UserError`. `changed` are the components that its answers update.
    """

    async def make(*given: Any) -> AsyncIterator[FormUpdates]:
        try:
            async with aclosing(_show(ask(*given), results)) as updates:
                async for one in updates:
                    yield one
        except (UserError, SamplingFailed) as error:
            yield {results.status: refusal_html(str(error))}

    running = gr.on(
        [*triggers],
        make,
        [*inputs],
        [results.status, results.clips, *changed],
        concurrency_id=_NAME,
        concurrency_limit=1,
        show_progress_on=[results.status],
        api_visibility="private",
    )
    # On a phone, and with settings unfolded, the results are below what is seen.
    gr.on([*triggers], None, js=_SHOW % results.status.elem_id, **AT_ONCE)
    # Ending it closes the generators, whose end cancels the job (`SamplerProcess.answers`). The last step may reach
    # the browser after the first answer to the click: the second one stays.
    ended = stop.click(cancelled_html, outputs=[results.status], cancels=[running], **AT_ONCE)
    ended.then(cancelled_html, outputs=[results.status], **AT_ONCE)


async def _show(asked: AskedClips, results: Results) -> AsyncGenerator[FormUpdates, None]:
    """Updates while clips are made: the progress of each, and all that are there."""
    clips: list[MadeClip] = []
    headings, of = asked.headings or [""] * len(asked.makings), len(asked.makings)
    yield {**asked.updates, results.status: progress_html(None, of=of)}
    for place, making in enumerate(asked.makings):
        yield {results.status: progress_html(None, clip=place, of=of)}
        async with aclosing(making):
            async for one in making:
                if isinstance(one, StepsDone):
                    yield {results.status: progress_html(one, clip=place, of=of)}
                    continue
                clips.append(one)
                cards = [
                    clip_card(clip, heading=heading)
                    for clip, heading in zip(clips, headings, strict=False)
                ]
                yield {results.clips: clips_html(cards)}
    yield {results.status: done_html(clips)}


AT_ONCE: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Options of an event that waits for nothing and is no interface for programs."""
