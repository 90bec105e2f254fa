"""A page served from a thread of this process, for all that needs no clip."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn

from magicvideo_jax.serving import serving
from magicvideo_jax.serving.served_models import ServedModel
from magicvideo_jax.serving.serving import ServeRequest, page_of
from magicvideo_jax.serving.web_server import page_socket


@contextlib.contextmanager
def served_here(asked: ServeRequest) -> Iterator[str]:
    """The address of the page. Its models are not loaded, so that it makes no clip."""

    def not_loaded(requests, _):
        return {name: ServedModel(one, trouble="not loaded") for name, one in requests.items()}

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as page:
        patch.setattr(serving, "_described", not_loaded)
        patch.setenv("GRADIO_TEMP_DIR", "")  # the page sets it, and the context gives it back
        bound = page.enter_context(page_socket(asked.host, 0))
        bound.listen()  # whoever has the address may ask at once

        async def build():
            return page.enter_context(page_of(asked))

        with ThreadPoolExecutor(1) as thread:
            # Where no event loop runs, Gradio makes some that it never closes; in the tests' own
            # thread, playwright's may be running.
            app = thread.submit(asyncio.run, build()).result()
            config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, ws="none")
            server = uvicorn.Server(config)
            ended = thread.submit(server.run, sockets=[bound])
            yield f"http://{asked.host}:{bound.getsockname()[1]}"
            server.should_exit = True
            ended.result()
