"""Errors of a download from the Hugging Face Hub, each as one line that says what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.hub.hub_name import HubName, is_address

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TOKEN = "a token (HF_TOKEN, or `hf auth login`)"


@contextmanager
def hub_errors_explained(name: HubName, *, argument: str) -> Iterator[None]:
    """Raise what huggingface_hub raises as a `UserError` naming `argument`."""
    from huggingface_hub.errors import HTTPError, RevisionResolutionError, XetDownloadError

    try:
        yield
    except (
        OSError,
        HTTPError,
        JSONDecodeError,
        RevisionResolutionError,
        XetDownloadError,
    ) as error:
        raise UserError(f"{argument}={name.text}: {_explanation(error, name)}") from error


def _explanation(error: Exception, name: HubName) -> str:
    from huggingface_hub import constants, errors

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    page = f"{hub}/{name.repository}"
    not_here = "" if is_address(name.text) else "no such file or folder, and "
    offline = (
        "HF_HUB_OFFLINE is set: unset it"
        if constants.is_offline_mode()
        else f"{hub} cannot be reached: check the network"
    )
    if isinstance(error, OSError) and error.errno:
        is_full = error.errno in _NO_SPACE
        advice = "make space, or " if is_full else ""
        better = "of another disk" if is_full else "that can be written"
        return f"{cache}: {error.strerror}: {advice}set HF_HOME to a folder {better}"
    # The special kinds come first: a gated repository is one that was not found, too.
    explanations = (
        (
            errors.GatedRepoError,
            f"gated: accept its terms at {page}, and give {_TOKEN} of that account",
        ),
        (
            errors.RepositoryNotFoundError,
            f"{not_here}no such model at {hub}, or a private one: correct the name, or give {_TOKEN}",
        ),
        (
            errors.RevisionNotFoundError,
            f"{page} has no branch, tag or commit {name.revision or constants.DEFAULT_REVISION}",
        ),
        (
            (
                errors.RevisionResolutionError,
                errors.LocalEntryNotFoundError,
                errors.OfflineModeIsEnabled,
            ),
            f"{not_here}not in the download cache, {cache}, and {offline}; or fetch it elsewhere "
            f"(`hf download {name.repository}`) and give its folder",
        ),
        (errors.HfHubHTTPError, _refusal(error, hub)),
        (
            JSONDecodeError,
            f"{hub} does not answer as a hub does: check HF_ENDPOINT, and whether the network has "
            "a login page",
        ),
        (
            Exception,
            f"the download broke off ({_first_line(error)}): run the command again; the files that "
            "are complete are kept",
        ),
    )
    return next(words for kind, words in explanations if isinstance(error, kind))


def _refusal(error: Exception, hub: str) -> str:
    """Words for a status of HTTP that says no more."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    advice = f"give {_TOKEN} that may read it" if status in (401, 403) else "try again later"
    return f"{hub} answers with HTTP {status}: {advice}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
