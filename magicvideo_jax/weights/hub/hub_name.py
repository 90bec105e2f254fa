"""Names of weights on the Hugging Face Hub: `owner/name`, `hf://owner/name@revision/path`."""

import re
from dataclasses import dataclass

from magicvideo_jax.core.errors import UserError

_ADDRESSES = ("hf://", "https://huggingface.co/", "https://hf.co/")
_SHORT = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# What ends so and is not there is a mistyped path: no repository is called like a weight file.
_FILE = re.compile(r".*\.(safetensors|ckpt|pt|pth|bin|json)", re.IGNORECASE)


@dataclass(frozen=True)
class HubName:
    """A model's repository, or a file or folder in it."""

    text: str
    """The name as it was given."""
    repository: str
    """`owner/name`."""
    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""
    path: str = ""
    """File or folder in the repository; empty: all of it."""


def is_address(text: str) -> bool:
    """Whether a text can only be a name on the hub: `hf://...`, or a page of its website."""
    return text.startswith(_ADDRESSES)


def hub_name(text: str, *, argument: str) -> HubName | None:
    """Parse `owner/name`, `hf://owner/name@revision/path`, or the address of a file's page.

    None for a text of another form. Errors: `UserError` naming `argument` for an address that
    names no model.
    """
    if not is_address(text) and (not _SHORT.fullmatch(text) or _FILE.fullmatch(text)):
        return None
    # Only now: it takes half a second to import.
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        uri = parse_hf_uri(text if is_address(text) else f"hf://{text}")
    except HfUriError as error:
        if not is_address(text):
            return None
        words = error.msg.rstrip(".")
        raise UserError(
            f"{argument}={text}: {words}: write hf://owner/name@revision/path"
        ) from error
    if uri.type != "model":
        raise UserError(f"{argument}={text}: names a {uri.type} of the hub, not a model")
    return HubName(text, uri.id, uri.revision, uri.path_in_repo.rstrip("/"))
