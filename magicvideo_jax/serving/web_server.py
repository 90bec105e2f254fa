"""The page served: a socket of this machine, the gate, the page's clips, and Gradio behind them."""

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Read when Gradio is imported: it would report to its makers over the network.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.serving.clip_cards import CLIPS_ROUTE
from magicvideo_jax.serving.gate import Gate
from magicvideo_jax.serving.page_style import PAGE_STYLE, page_theme
from magicvideo_jax.serving.result_folder import ResultFolder

HOME_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_MEDIA_TYPES = {".mp4": "video/mp4", ".gif": "image/gif", ".zip": "application/zip"}


@contextlib.contextmanager
def page_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket; port 0 is any that is free. Errors: `UserError` naming --port or --host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except socket.gaierror as error:
            raise UserError(f"--host={host}: no such address ({error.strerror})") from None
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"--port={port}: {host} refuses it ({why}): give another") from None
        yield bound


def page_app(
    page: gr.Blocks,
    results: ResultFolder,
    *,
    shown: Sequence[Path],
    uploads: Path,
    is_at_home: bool,
    most_bytes: int,
) -> Any:
    """The ASGI application of a page. `shown` are folders whose files may be seen, `uploads` is Gradio's own."""
    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @outer.get(CLIPS_ROUTE + "/{name}")
    def clip(name: str) -> Response:
        path = results.file(name)
        if path is None:
            return PlainTextResponse("this clip is not here any more", status_code=404)
        return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix])

    gr.mount_gradio_app(
        outer,
        page,
        path="/",
        allowed_paths=[str(folder) for folder in shown],
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=most_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=page_theme(),
        css=PAGE_STYLE,
    )

    def folders() -> Iterable[Path]:
        return (uploads, *shown)

    hosts = HOME_HOSTS if is_at_home else None
    return Gate(outer, folders=folders, hosts=hosts, most_bytes=most_bytes)


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder of this server alone for what Gradio keeps: uploads, and files of components."""
    with tempfile.TemporaryDirectory(prefix="magicvideo_uploads_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)


def serve_until_ended(app: Any, bound: socket.socket) -> None:
    """Answer requests until the process is interrupted or terminated; raises `KeyboardInterrupt` then."""
    # Uvicorn raises its signal again: where that ended the process, the page's folders would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, ws="none"
    )
    uvicorn.Server(config).run(sockets=[bound])
