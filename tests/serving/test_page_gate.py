"""What the page refuses to show: files that it did not make, routes that it does not need, names from elsewhere."""

import socket
from urllib.parse import quote, urlsplit

import pytest
from served_here import served_here

from magicvideo_jax.serving.serving import ServeRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def url(folder):
    run = folder / "run"
    for name in ("checkpoints", "previews"):
        (run / name).mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "previews" / "step_000000.png").write_bytes(b"\x89PNG shown")
    (run / "previews" / "leak.png").symlink_to("/etc/passwd")
    (folder / "run_secret").mkdir()
    (folder / "run_secret" / "key.txt").write_text("secret")
    with served_here(ServeRequest((str(run),), most_bytes=2**20)) as address:
        yield address


def ask(url: str, target: str, *, host: str | None = None, more: str = "", method: str = "GET"):
    """Status and body of a request whose target is sent as it is: clients would tidy it up."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as wire:
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: {host or parts.netloc}\r\nConnection: close\r\n"
        )
        wire.sendall(f"{head}{more}\r\n".encode("latin-1"))
        answer = b""
        while piece := wire.recv(2**16):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode("latin-1").lower(), body


def file_route(path) -> str:
    return f"/gradio_api/file={path}"


def test_previews_of_a_run_are_shown(url, folder):
    status, _, body = ask(url, file_route(folder / "run/previews/step_000000.png"))
    assert (status, body) == (200, b"\x89PNG shown")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc//passwd",
        "//etc/passwd",
        "{run}/config.json",
        "{run}/checkpoints",
        "{run}/previews",
        "{run}/previews/../config.json",
        "{run}/previews/%2e%2e/config.json",
        "{run}/previews/..%2fconfig.json",
        "{run}/previews/%252e%252e/config.json",
        "{run}/previews/leak.png",
        "{run}/previews/step_000000.png/../../config.json",
        "{run}/previews/step_000000.png%00",
        "{run}_secret/key.txt",
        "{run}/previews/../../run_secret/key.txt",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "https://example.org/",
        "",
        ".",
        "~/.ssh/id_rsa",
        "requirements.txt",
        "\\etc\\passwd",
        "/proc/self/environ",
        "{encoded}",
    ],
)
def test_no_other_file_is_served(url, folder, path):
    run = folder / "run"
    encoded = quote(str(run / "config.json"), safe="")
    status, _, body = ask(url, file_route(path.format(run=run, encoded=encoded)))
    assert status in (403, 404), body
    assert b"secret" not in body
    assert b"root:" not in body


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "a.mp4",
        "0" * 32 + ".npy",
        "0" * 32 + ".mp4",
        "0" * 32 + ".mp4%0a",
        "0" * 32 + ".mp4/../../x",
        "",
    ],
)
def test_a_clip_is_asked_for_by_its_name_alone(url, name):
    assert ask(url, f"/clips/{name}")[0] == 404


@pytest.mark.parametrize(
    "route",
    [
        "/docs",
        "/openapi.json",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/proxy=https://example.org",
        "/gradio_api/call/x/y",
        "/gradio_api/vibe-code/",
        "/gradio_api/app_id",
        "/gradio_api/stream/a/b/1/playlist.m3u8",
        "/monitoring",
        "/login",
        "//etc/passwd",
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc/passwd",
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(url, route):
    status, _, body = ask(url, route)
    assert status in (403, 404, 405)
    assert b"root:" not in body


def test_another_name_for_this_machine_is_refused(url):
    """A page from elsewhere whose name leads here (DNS rebinding) learns nothing."""
    port = urlsplit(url).port
    assert ask(url, "/", host=f"evil.example:{port}")[0] == 403
    assert ask(url, "/", host="evil.example")[0] == 403
    assert ask(url, "/", host=f"localhost:{port}")[0] == 200
    assert ask(url, "/", host="localhost")[0] == 200


def test_answers_forbid_what_comes_from_elsewhere(url):
    status, head, _ = ask(url, "/")
    assert status == 200
    assert "default-src 'self'" in head
    assert "x-content-type-options: nosniff" in head


def test_large_uploads_are_refused_before_they_are_read(url):
    more = f"Content-Length: {2**22}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert ask(url, "/gradio_api/upload", more=more, method="POST")[0] == 413
    chunked = "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert ask(url, "/gradio_api/upload", more=chunked, method="POST")[0] == 411
