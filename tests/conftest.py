"""One environment for every test: eight fake devices, strict shapes, a compile cache shared by the session."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

# Compiling takes longer than running here: level 0 halves it, and changes no result beyond rounding.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook(
    "magicvideo_jax", "beartype.beartype"
)  # every annotated shape is checked while tests run

import jax
import pytest
from checkout import ROOT

pytest_plugins = ["expected_skips"]

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", action="store_true", help="run also what takes minutes or full-size models"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with `make test-slow`"))


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
