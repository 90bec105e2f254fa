"""What the page refuses to show: files that it did not make, routes that it does not need, names from elsewhere."""

import socket
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from served_run import served, untrained_run

pytest.importorskip("gradio", reason="needs gradio: pip install -r requirements-serve.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def site(folder):
    run = untrained_run(folder / "run")
    (run / "previews" / "step_000000.png").write_bytes(b"\x89PNG shown")
    (run / "previews" / "leak.png").symlink_to("/etc/passwd")
    (folder / "run_secret").mkdir()
    (folder / "run_secret" / "key.txt").write_text("secret")
    with served(f"--workdir={run}", "--max_upload=1", log=folder / "log") as page:
        yield page


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


def test_previews_of_a_run_are_shown(site, folder):
    status, _, body = ask(site.url, file_route(folder / "run/previews/step_000000.png"))
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
def test_no_other_file_is_served(site, folder, path):
    run = folder / "run"
    encoded = quote(str(run / "config.json"), safe="")
    status, _, body = ask(site.url, file_route(path.format(run=run, encoded=encoded)))
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
def test_a_clip_is_asked_for_by_its_name_alone(site, name):
    assert ask(site.url, f"/clips/{name}")[0] == 404


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
def test_routes_that_the_page_does_not_need_are_closed(site, route):
    status, _, body = ask(site.url, route)
    assert status in (403, 404, 405)
    assert b"root:" not in body


def test_another_name_for_this_machine_is_refused(site):
    """A page from elsewhere whose name leads here (DNS rebinding) learns nothing."""
    port = urlsplit(site.url).port
    assert ask(site.url, "/", host=f"evil.example:{port}")[0] == 403
    assert ask(site.url, "/", host="evil.example")[0] == 403
    assert ask(site.url, "/", host=f"localhost:{port}")[0] == 200
    assert ask(site.url, "/", host="localhost")[0] == 200


def test_answers_forbid_what_comes_from_elsewhere(site):
    status, head, _ = ask(site.url, "/")
    assert status == 200
    assert "default-src 'self'" in head
    assert "x-content-type-options: nosniff" in head


def test_large_uploads_are_refused_before_they_are_read(site):
    more = f"Content-Length: {2**22}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert ask(site.url, "/gradio_api/upload", more=more, method="POST")[0] == 413
    chunked = "Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert ask(site.url, "/gradio_api/upload", more=chunked, method="POST")[0] == 411


def test_the_page_is_for_this_machine_alone(site):
    assert urlsplit(site.url).hostname == "127.0.0.1"
    addresses = Path("/proc/net/tcp").read_text().split("\n")[1:]
    port = f"{urlsplit(site.url).port:04X}"
    listening = [line.split()[1] for line in addresses if f":{port} 00000000:0000 0A" in line]
    assert listening == [f"0100007F:{port}"]


def test_the_sampler_ends_with_its_page(site):
    """A page that is killed leaves nothing behind. The last test of this file."""
    sampler = site.sampler()
    site.process.kill()
    site.process.wait()
    for _ in range(200):
        if not Path(f"/proc/{sampler}").exists() or _is_zombie(sampler):
            return
        site.process.poll()
        time.sleep(0.1)
    raise AssertionError("the sampler outlives its page")


def _is_zombie(process: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True
