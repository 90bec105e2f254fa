"""One environment for every test and the processes it starts: fake devices, strict shapes, a cache of programs."""

import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from checkout import ROOT
from quick_xla import QUICK

_FLAGS = f"--xla_force_host_platform_device_count=8 {QUICK}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
if "PYTEST_XDIST_WORKER" in os.environ:  # the other cores are the other workers'
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook(
    "magicvideo_jax", "beartype.beartype"
)  # every annotated shape is checked while tests run

import jax
import pytest

pytest_plugins = ["expected_skips"]

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", action="store_true", help="run also what takes minutes or full-size models"
    )


LONGEST = (
    "test_documents.py",
    "test_processes.py",
    "test_notebook.py",
    "test_runs.py",
    "test_datasets.py",
    "test_embedded.py",
    "test_extension.py",
    "test_animatediff_run.py",
    "test_video_vae_run.py",
    "test_job_end.py",
    "test_page_sampling.py",
)
"""Files of a minute or so, the longest first. They begin before the others: `--dist loadfile` gives a worker a file at
a time, and one that begins last is waited for."""


def _turn(item: pytest.Item) -> int:
    return LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with `make test-slow`"))


def pytest_collection_finish() -> None:
    """What was imported stays to the end: the garbage collector need not look through it again."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared_assets() -> Path:
    """Real clips and weights kept beside the project, not in it."""
    folder = ROOT.parent / "shared" / "assets"
    if not folder.is_dir():
        pytest.skip("needs ../shared/assets (real clips and weights), which is not here")
    return folder


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Programs for one device compile in half the time; test_parallel.py and test_meshes.py have the many."""
    alone = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: alone)
        yield


@pytest.fixture
def free_port() -> int:
    """The first of two."""
    while True:
        with socket.create_server(("", 0)) as first, contextlib.suppress(OSError):
            port = first.getsockname()[1]
            with socket.create_server(("", port + 1)):
                return port
