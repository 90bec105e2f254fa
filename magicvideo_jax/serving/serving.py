"""A page from its first line to its end: models described, folders made, requests answered."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.serving.clip_job import ClipMaker
from magicvideo_jax.serving.page import build_page
from magicvideo_jax.serving.result_folder import ResultFolder
from magicvideo_jax.serving.sampler_process import SamplerProcess, SamplingFailed
from magicvideo_jax.serving.served_models import (
    ServedModel,
    ServedModels,
    find_weight_files,
    named_models,
)
from magicvideo_jax.serving.web_server import (
    HOME_HOSTS,
    page_app,
    page_socket,
    serve_until_ended,
    upload_folder,
)


@dataclass(frozen=True)
class ServeRequest:
    """What `serve` was asked for."""

    workdirs: tuple[str, ...]
    """The first is the usual model."""
    weights_dirs: tuple[str, ...] = ()
    interpolate: str = ""
    """Weights, with the VAE and the text encoder of the first model."""
    upscale: str = ""
    super_resolution: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    most_bytes: int = 2**26
    """Size of an upload."""


def run_server(asked: ServeRequest) -> None:
    """Serve the page until the process is interrupted. Errors: `UserError`."""
    with page_socket(asked.host, asked.port) as bound, page_of(asked) as app:
        bound.listen()  # whoever reads the line below may ask at once
        host = f"[{asked.host}]" if ":" in asked.host else asked.host
        say(f"the page is at http://{host}:{bound.getsockname()[1]} (Ctrl-C ends it)")
        serve_until_ended(app, bound)


@contextlib.contextmanager
def page_of(asked: ServeRequest) -> Iterator[Any]:
    """The ASGI application, with its process and folders. Errors: `UserError` for weights that cannot be loaded."""
    files = find_weight_files(asked.weights_dirs)
    with ResultFolder() as results, SamplerProcess() as sampler, upload_folder() as uploads:
        models = _described(named_models(asked.workdirs), sampler)
        runs = [Path(workdir) for workdir in asked.workdirs if _is_run(workdir)]
        maker = ClipMaker(ServedModels(models, files), sampler, results)
        page = build_page(maker, refiners=_refiners(asked), runs=runs, uploads=uploads)
        if maker.models.model("").facts is not None:
            sampler.prepare(maker.models.model("").request)
        yield page_app(
            page,
            results,
            shown=[run / "previews" for run in runs],
            uploads=uploads,
            is_at_home=asked.host in HOME_HOSTS,
            most_bytes=asked.most_bytes,
        )


def _refiners(asked: ServeRequest) -> dict[str, ModelRequest]:
    """What can be made of a clip, by what the page calls it. Errors: `UserError`."""
    found, base = {}, ModelRequest(asked.workdirs[0])
    if asked.interpolate:
        found["more frames"] = replace(base, interpolate=asked.interpolate)
    if asked.upscale or asked.super_resolution:
        found["more pixels"] = replace(
            base, upscale=asked.upscale, super_resolution=asked.super_resolution
        )
    return found


def _described(
    requests: Mapping[str, ModelRequest], sampler: SamplerProcess
) -> dict[str, ServedModel]:
    """Every model with its facts. The first is described last, so that it is still loaded.

    A run that has no checkpoint yet is watched and cannot be sampled.
    """
    found = {}
    for name, request in reversed([*requests.items()]):
        say(f"loading {request.workdir}")
        try:
            found[name] = ServedModel(request, asyncio.run(sampler.describe(request)))
        except UserError as error:
            if not _is_run(request.workdir):
                raise
            say(f"{name} cannot be sampled: {error}")
            found[name] = ServedModel(request, trouble=str(error))
        except SamplingFailed as error:
            raise UserError(f"--workdir={request.workdir}: {error}") from None
    return {name: found[name] for name in requests}


def _is_run(workdir: str) -> bool:
    return (Path(workdir).expanduser() / "config.json").is_file() and (
        Path(workdir).expanduser() / "checkpoints"
    ).is_dir()
