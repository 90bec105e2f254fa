"""What stands before Gradio: only the routes that the page needs, only files that it may show, nothing from outside.

Gradio can do more than this page wants: fetch other addresses for a browser, answer as an interface
for programs, follow links out of a folder. The gate refuses it all before Gradio sees the request.
"""

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Any]

_ROUTES = (
    *("/assets/", "/static/", "/svelte/", "/theme.css", "/config", "/favicon.ico", "/clips/"),
    *(f"/gradio_api/{name}" for name in ("queue/", "heartbeat/", "startup-events", "cancel")),
    *(f"/gradio_api/{name}" for name in ("upload", "reset", "theme.css", "run/predict")),
)
"""Beginnings of the paths that the page asks for, besides itself and files."""
_FILE = "/gradio_api/file="

_HEADERS = {
    # Gradio's own scripts stand in the page and make functions of texts. None of the sources is another machine.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Gate:
    """An ASGI application around another. Files are served below `folders` alone, links followed."""

    def __init__(
        self,
        app: App,
        *,
        folders: Callable[[], Iterable[Path]],
        hosts: Collection[str] | None,
        most_bytes: int,
    ):
        """`hosts` are the names by which the page may be asked for: without them, a page from elsewhere whose name
        leads to this machine could ask for it (DNS rebinding). None: any. `most_bytes` is the size of an upload."""
        self._app, self._folders, self._hosts = app, folders, hosts
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refused = 403 if scope["type"] != "http" else self._refusal(scope)
        if refused:
            await _refuse(refused, send)
            return

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *ours]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> int:
        """The status of a refusal; 0: the request is passed on."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and host not in self._hosts:
            return 403
        size = headers.get(b"content-length", b"0")
        if not size.isdigit() or int(size) > self._most_bytes + 2**16:
            return 413
        # Browsers say how long a body is; one without a length could be of any.
        if b"transfer-encoding" in headers:
            return 411
        path = scope["path"]
        if path.startswith(_FILE):
            return 0 if self._is_shown(path.removeprefix(_FILE)) else 403
        return 0 if path == "/" or path.startswith(_ROUTES) else 404

    def _is_shown(self, text: str) -> bool:
        try:
            path = Path(text).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return False
        return path.is_file() and any(
            folder.resolve() in path.parents for folder in self._folders()
        )


async def _refuse(status: int, send: Any) -> None:
    body = {403: b"refused", 404: b"not found", 411: b"length needed", 413: b"too large"}[status]
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
