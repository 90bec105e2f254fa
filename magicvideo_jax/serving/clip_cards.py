"""HTML of the page's results. Whatever a person typed is escaped: it is text, never markup."""

import html
import re
from collections.abc import Sequence

from magicvideo_jax.serving.clip_job import MadeClip, StepsDone
from magicvideo_jax.serving.request_text import link_query
from magicvideo_jax.serving.result_folder import CLIP_ENDINGS

CLIPS_ROUTE = "/clips"

_DOWNLOADS = {"mp4": "mp4", "gif": "gif", "zip": "png"}
"""What a link says, by the ending of its file."""


def clip_card(clip: MadeClip, *, heading: str = "") -> str:
    """One clip: the video, what it was made with, downloads, and the link to the same again."""
    url = f"{CLIPS_ROUTE}/{clip.name}"
    query = html.escape(link_query(clip.request, clip.choice))
    links = [
        f'<a href="{url}.{ending}" download="{file_stem(clip)}.{ending}">{_DOWNLOADS[ending]}</a>'
        for ending in CLIP_ENDINGS
    ]
    again = f'<a class="mv-again" href="/?{query}">Same again</a>' if clip.has_link else ""
    title = f'<div class="mv-heading">{html.escape(heading)}</div>' if heading else ""
    return (
        f'<figure class="mv-clip" data-compiled="{clip.compiled}" data-memory="{clip.memory}">'
        f'{title}<video src="{url}.mp4" autoplay loop muted playsinline controls '
        f'aria-label="{html.escape(clip.request.prompt[:200])}"></video>'
        f'<figcaption><div class="mv-prompt">{html.escape(clip.request.prompt)}</div>'
        f'<div class="mv-facts">{html.escape(_facts(clip))}</div>'
        f'<div class="mv-links"><span>Download {" ".join(links)}</span>{again}</div>'
        "</figcaption></figure>"
    )


def clips_html(cards: Sequence[str]) -> str:
    """Cards side by side, as many as fit."""
    return f'<div class="mv-clips mv-clips-{min(len(cards), 4)}">{"".join(cards)}</div>'


def progress_html(step: StepsDone | None, *, clip: int = 0, of: int = 1) -> str:
    """A bar of steps; None: the sampler has not begun."""
    which = f"Clip {clip + 1} of {of}: " if of > 1 else ""
    if step is None:
        words = "preparing (the first clip of its kind is compiled, which takes longer)"
        return f'<div class="mv-status" role="status">{_sentence(which + words)}<progress></progress></div>'
    words = f"step {min(step.done + 1, step.total)} of {step.total}"
    part = (clip + step.done / max(step.total, 1)) / of
    return (
        f'<div class="mv-status" role="status">{_sentence(which + words)}'
        f'<progress max="1" value="{part:.4f}"></progress></div>'
    )


def done_html(clips: Sequence[MadeClip]) -> str:
    """How long it took, and the notes on what was asked, each once."""
    seconds = sum(clip.seconds for clip in clips)
    many = f"{len(clips)} clips" if len(clips) > 1 else "1 clip"
    notes = dict.fromkeys(note for clip in clips for note in clip.notes)
    shown = "".join(f'<div class="mv-warning">{_sentence(note)}</div>' for note in notes)
    return f'<div class="mv-status" role="status">{many} in {seconds:.1f} s{shown}</div>'


def refusal_html(message: str) -> str:
    """What was refused and why, or what went wrong."""
    return f'<div class="mv-refusal" role="alert">{html.escape(message)}</div>'


def cancelled_html() -> str:
    """The answer to the cancel button."""
    return '<div class="mv-status" role="status">Cancelled.</div>'


def empty_html(words: str) -> str:
    """What stands where results will be."""
    return f'<div class="mv-empty">{html.escape(words)}</div>'


def file_stem(clip: MadeClip) -> str:
    """Name for a downloaded file: the prompt's first words and the seed."""
    words = re.findall(r"[a-z0-9]+", clip.request.prompt.lower())
    return f"{'-'.join(words[:8])[:60] or 'clip'}_seed{clip.request.seed}"


def _facts(clip: MadeClip) -> str:
    request = clip.request
    facts = [
        clip.choice.model,
        f"seed {request.seed}",
        request.steps and f"{request.steps} steps",
        request.guidance is not None and f"guidance {request.guidance:g}",
        request.sampler,
        request.negative_prompt and f"not: {request.negative_prompt}",
        clip.choice.lora and f"{clip.choice.lora} × {clip.choice.lora_scale:g}",
        clip.choice.motion,
        f"{clip.frames} frame{'s' if clip.frames > 1 else ''} of {clip.width} × {clip.height}",
        f"{clip.fps:g} fps",
        f"{clip.seconds:.1f} s",
    ]
    return " · ".join(str(fact) for fact in facts if fact)


def _sentence(words: str) -> str:
    return html.escape(words[:1].upper() + words[1:])
