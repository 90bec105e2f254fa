"""A small Hugging Face Hub at 127.0.0.1: listings, redirects, ETags, ranges, gates, broken downloads.

It answers huggingface_hub as the real one does, without Xet: `/resolve/` redirects, to the same
host for a small file, and to another host, which gets no token, for a large one of git-lfs.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".ckpt")
TOKEN = "hf_of_somebody_who_accepted"


@dataclass
class Repository:
    """Files of a model, by branch and path."""

    files: dict[str, dict[str, bytes]]
    gated: bool = False

    @classmethod
    def of_folder(cls, folder: Path, **more: bytes) -> "Repository":
        found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        return cls({"main": {name: path.read_bytes() for name, path in found.items()} | more})

    def commit(self, revision: str) -> str | None:
        """Hash of a branch's content, which is also accepted as a revision."""
        commits = {
            name: _sha1(*(part for path in sorted(files) for part in (path.encode(), files[path])))
            for name, files in self.files.items()
        }
        return commits.get(revision, revision if revision in commits.values() else None)

    def at(self, commit: str) -> dict[str, bytes]:
        return next(files for name, files in self.files.items() if self.commit(name) == commit)


@dataclass
class Hub:
    """What is served, what was asked for, and what shall go wrong."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    breaks: int = 0
    """Large downloads that break off half way before one succeeds."""
    refusal: tuple[int, str] | None = None
    """Status and message with which every request is answered."""

    def fetched(self) -> list[str]:
        """Paths of the files that were sent, in that order."""
        starts = [path for method, path, _ in self.asked if method == "GET"]
        return [path.split("/", 5)[5] for path in starts if "/content/" in path]


def _sha1(*parts: bytes) -> str:
    digest = hashlib.sha1()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append((self.command, path, self.headers.get("Range")))
        if self.served.refusal is not None:
            status, message = self.served.refusal
            return self._refuse(status, "", message)
        words = path.strip("/").split("/")
        if words[0] == "content":
            return self._send_content(words)
        if words[:2] == ["api", "models"]:
            return self._answer_api("/".join(words[2:4]), words[4:])
        if words[2:3] == ["resolve"]:
            return self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        return self._refuse(404, "", "Not found")

    def _repository(self, name: str) -> Repository | None:
        found = self.served.repositories.get(name)
        if found is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        return found

    def _answer_api(self, name: str, words: list[str]) -> None:
        """`/api/models/OWNER/NAME[/revision/R]` and `/api/models/OWNER/NAME/tree/R`."""
        repository = self._repository(name)
        if repository is None:
            return None
        kind, revision = (*words, "revision", "main")[:2] if words else ("revision", "main")
        commit = repository.commit(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if kind == "revision":
            return self._send_json({"id": name, "modelId": name, "sha": commit, "siblings": []})
        entries = []
        for path, content in repository.at(commit).items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": _sha1(content)}
            if path.endswith(LARGE):
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return self._send_json(entries)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return None
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 403 if "Authorization" in self.headers else 401
            return self._refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
        commit = repository.commit(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = repository.at(commit).get(path)
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        where = f"/content/{name}/{commit}/{path}"
        if not path.endswith(LARGE):
            # The content stands at the same host: huggingface_hub follows this one.
            return self._redirect(where, commit, f'"{_sha1(content)}"', len(content))
        # Another host, as of a CDN: it gets no token.
        other = self.served.url.replace("127.0.0.1", "localhost")
        linked = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._redirect(f"{other}{where}", commit, linked, len(content))

    def _send_content(self, words: list[str]) -> None:
        repository = self.served.repositories["/".join(words[1:3])]
        commit, path = words[3], "/".join(words[4:])
        content = repository.at(commit)[path]
        large = path.endswith(LARGE)
        if large and "Authorization" in self.headers:
            return self._refuse(400, "", "A signed address takes no token")
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{_sha1(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if large and self.served.breaks:
            self.served.breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None

    def _redirect(self, where: str, commit: str, etag: str, size: int) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Etag", etag)
        self.send_header("X-Linked-Size", str(size))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()
