"""Where compiled programs are kept."""

import pwd
import tempfile
from pathlib import Path

import pytest

from magicvideo_jax.runtime.compilation import cache_folder


@pytest.fixture
def homeless(tmp_path, monkeypatch) -> Path:
    """A container's user without an entry in passwd; the temporary directory."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_a_home_has_a_private_folder(homeless):
    folder = cache_folder()
    assert folder.parent == homeless
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder


@pytest.mark.parametrize("by", ["link", "everyone"])
def test_a_folder_that_others_may_write_is_not_used(homeless, by):
    mine = cache_folder()
    mine.rmdir()
    if by == "link":
        (homeless / "elsewhere").mkdir()
        mine.symlink_to(homeless / "elsewhere")
    else:
        mine.mkdir()
        mine.chmod(0o777)
    folder = cache_folder()
    assert folder != mine
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_user_s_folders_come_first(monkeypatch):
    monkeypatch.setenv("HOME", "/home/one")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/one/.cache/magicvideo_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/magicvideo_jax")
