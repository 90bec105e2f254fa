"""Where weights are: a path, a name in `EMBEDDED`, or a name on the Hugging Face Hub."""

from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.weights.hub.hub_cache import snapshot_of
from magicvideo_jax.weights.hub.hub_fetch import fetch
from magicvideo_jax.weights.hub.hub_name import hub_name, is_address

_FOLDER = Path(__file__).parent.parent / "embedded"
EMBEDDED = {
    "embedded": _FOLDER / "image",
    "embedded_video": _FOLDER / "video",
    "embedded_video_vae": _FOLDER / "video",
    "embedded_interpolation": _FOLDER / "interpolation",
    "embedded_upscaler": _FOLDER / "upscaler",
}
"""Weights that come with the package, by the name to ask for them: a text-to-image model, which
training begins with; the text-to-video model made of it; the VideoVAE, which is part of that; and
what makes more frames and more pixels of its clips."""
EMBEDDED_VIDEO = "embedded_video"
"""Weights that clips are sampled from where none are named."""


def locate(text: str | Path, *, argument: str, variant: str = "") -> Path:
    """The file or folder of weights that a person means, fetched from the hub if it is there.

    `text` is a path, one of `EMBEDDED`, or a name on the hub: `owner/name` or
    `hf://owner/name@revision/path`, of which the files of a `variant` are fetched. A path that
    exists comes before a name. Errors: `UserError` naming `argument` if there is nothing, and
    those of `hub.fetch`.
    """
    given = str(text)
    if given in EMBEDDED:
        return EMBEDDED[given]
    if not is_address(given):
        place = local_path(text, argument=argument)
        if place.exists():
            return snapshot_of(place)
    name = hub_name(given, argument=argument)
    if name is not None:
        return fetch(name, argument=argument, variant=variant)
    raise UserError(
        f"{argument}={given}: no such file or folder; give a file or folder of weights, a work "
        f"folder, one of {', '.join(EMBEDDED)}, or a model of the Hugging Face Hub: owner/name, "
        "hf://owner/name@revision/path"
    )
