"""Weights by name, from a hub at 127.0.0.1 that answers as the real one does (`hub_server.py`)."""

import errno
import importlib
import os
import shutil
from argparse import Namespace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_server import TOKEN, Repository, serving
from safetensors.torch import save
from test_convert import _convert
from tiny_pipeline import FILES, single_file_of, tiny_folder
from torch_lora import peft, random_lora, save_lora, tensors_of

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.hub import hub_fetch as hub_module
from magicvideo_jax.weights.hub.hub_fetch import resolve
from magicvideo_jax.weights.locate import locate
from magicvideo_jax.weights.lora.lora_merge import MergedParams, with_loras
from magicvideo_jax.weights.open import open_weights

PARTS = {"unet", "vae", "text_encoder"}


def _set_up(patch, url: str, home: Path, **more: str) -> None:
    """Give huggingface_hub another environment, as if it had been started there."""
    variables = {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"):
        patch.delenv(name, raising=False)
    for name, value in (variables | more).items():
        patch.setenv(name, value)
    _reread_environment()


def _reread_environment() -> None:
    importlib.reload(huggingface_hub.constants)
    huggingface_hub.close_session()
    resolve.cache_clear()


@pytest.fixture
def environment_afterwards():
    """Stands before `monkeypatch`, and so ends after it."""
    yield
    _reread_environment()


@pytest.fixture
def hub(environment_afterwards, monkeypatch, tmp_path):
    with serving() as served:
        _set_up(monkeypatch, served.url, tmp_path / "home")
        monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts
        served.repositories["tiny/sd"] = _published()
        yield served


def _published() -> Repository:
    """The tiny pipeline as models are published: with pickles, a variant, and a checkpoint."""
    unread = ("unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin")
    unread += ("safety_checker/model.safetensors", "v1-5-pruned.ckpt", "README.md")
    return Repository.of_folder(tiny_folder(), **dict.fromkeys(unread, b"never read"))


def _read_of_the_pipeline() -> set[str]:
    files = {path.relative_to(tiny_folder()).as_posix() for path in tiny_folder().rglob("*.*")}
    return {name for name in files if not name.endswith((".md", ".jinja"))}


def test_a_name_opens_as_the_folder_does_and_fetches_only_what_is_read(hub, capsys):
    weights, twin = open_weights("tiny/sd"), open_weights(tiny_folder())
    assert weights.parts.keys() == twin.parts.keys() == PARTS
    assert {n: p.config for n, p in weights.parts.items()} == {
        n: p.config for n, p in twin.parts.items()
    }
    assert weights.noise == twin.noise
    assert weights.tokenizer is not None
    assert set(hub.fetched()) == _read_of_the_pipeline()
    assert len(hub.fetched()) == len(set(hub.fetched()))
    folder = Path(weights.tokenizer).parent
    for file in FILES.values():
        assert (folder / file).read_bytes() == (tiny_folder() / file).read_bytes()
    said = capsys.readouterr().err
    assert f"fetching tiny/sd: {len(set(hub.fetched())) - 1} files" in said
    assert f"from {hub.url} to {folder}\n" in said

    hub.asked.clear()
    resolve.cache_clear()
    open_weights("tiny/sd")
    assert hub.fetched() == []
    assert "fetching" not in capsys.readouterr().err


def test_a_path_that_exists_comes_before_a_name(hub, monkeypatch, tmp_path):
    shutil.copytree(tiny_folder(), tmp_path / "tiny" / "sd")
    monkeypatch.chdir(tmp_path)
    assert set(open_weights("tiny/sd").parts) == PARTS
    assert locate("tiny/sd", argument="--lora") == tmp_path / "tiny" / "sd"
    assert hub.asked == []


def test_a_revision_and_a_folder_of_it_are_fetched_alone(hub):
    files = hub.repositories["tiny/sd"].files
    other = files["main"]["vae/config.json"].replace(b"0.18215", b"0.5")
    files["v2"] = files["main"] | {"vae/config.json": other}
    weights = open_weights("hf://tiny/sd@v2/vae")
    assert set(weights.parts) == {"vae"}
    assert weights.parts["vae"].config.scaling == 0.5
    assert sorted(hub.fetched()) == [
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert open_weights("hf://tiny/sd/vae").parts["vae"].config.scaling == 0.18215
    assert len(hub.fetched()) == 3  # the weights are the same: only config.json differs


def test_a_file_is_fetched_alone(hub, tmp_path):
    tensors = {key: x.contiguous() for key, x in single_file_of(tiny_folder()).items()}
    hub.repositories["tiny/sd"].files["main"]["fp32/sd.safetensors"] = save(tensors)
    assert set(open_weights("hf://tiny/sd/fp32/sd.safetensors").parts) == PARTS
    assert hub.fetched() == ["fp32/sd.safetensors"]


def test_a_variant_is_fetched_in_place_of_the_plain_files(hub):
    files = hub.repositories["tiny/sd"].files["main"]
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = files[FILES["unet"]]
    open_weights("tiny/sd", options=OpenOptions(variant="fp16"))
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.fetched()
    assert FILES["unet"] not in hub.fetched()


def test_convert_reads_from_the_hub(hub, tmp_path):
    _convert("hf://tiny/sd@main", tmp_path / "jax")
    assert set(open_weights(tmp_path / "jax").parts) == PARTS


def test_a_lora_is_named_with_its_scale(hub):
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    factors = {"lora_down.weight": torch.ones(2, 64), "lora_up.weight": torch.ones(64, 2)}
    content = save({f"{layer}.{name}": x for name, x in factors.items()})
    hub.repositories["some/style"] = Repository({"main": {"style.safetensors": content}})
    parts = open_weights(tiny_folder()).parts
    for name in ("some/style:0.5", "hf://some/style/style.safetensors:0.5"):
        source = with_loras(parts, [name], argument="--lora")["unet"].source
        assert isinstance(source, MergedParams)
        (terms,) = source.terms.values()
        assert [(term.scale, term.read().max()) for term in terms] == [(0.5, 0.5 * 2)]
    assert hub.fetched() == ["style.safetensors"]


def test_a_process_stays_with_the_commit_that_it_saw_first(hub):
    first = locate("tiny/sd", argument="--workdir")
    files = hub.repositories["tiny/sd"].files["main"]
    files["vae/config.json"] = files["vae/config.json"].replace(b"0.18215", b"0.5")
    assert locate("tiny/sd", argument="--workdir") == first
    assert locate("hf://tiny/sd/unet", argument="--workdir").parent == first
    resolve.cache_clear()
    hub.asked.clear()
    assert open_weights("tiny/sd").parts["vae"].config.scaling == 0.5
    assert hub.fetched() == ["vae/config.json"]


@pytest.mark.parametrize("reason", ["HF_HUB_OFFLINE", "down", "no network"])
def test_without_a_network_the_cache_answers(hub, reason, monkeypatch, caplog, tmp_path):
    open_weights("tiny/sd")
    hub.asked.clear()
    url = hub.url
    if reason == "down":
        hub.refusal = (503, "Service Unavailable")
    if reason == "no network":
        url = "http://127.0.0.1:9"  # the port of `discard`: nobody listens
    more = {"HF_HUB_OFFLINE": "1"} if reason == "HF_HUB_OFFLINE" else {}
    _set_up(monkeypatch, url, tmp_path / "home", **more)
    assert set(open_weights("tiny/sd").parts) == PARTS
    assert hub.fetched() == []
    assert ("Could not reach the Hub" in caplog.text) == (not more)  # who asks for it knows

    why = f"{reason} is set" if more else f"{url} cannot be reached"
    with pytest.raises(UserError) as caught:
        open_weights("tiny/other", argument="config.init_from")
    assert str(caught.value) == (
        f"config.init_from=tiny/other: no such file or folder, and not in the download cache, "
        f"{tmp_path / 'home' / 'hub'}, and {why}: {'unset it' if more else 'check the network'}; "
        "or fetch it elsewhere (`hf download tiny/other`) and give its folder"
    )


@pytest.mark.parametrize("listing_is_kept", [True, False])
def test_what_the_cache_holds_in_part_is_not_taken_for_the_whole(
    hub, listing_is_kept, monkeypatch, tmp_path
):
    vae = locate("hf://tiny/sd/vae", argument="--workdir")
    if not listing_is_kept:  # older versions of huggingface_hub keep none
        huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE.clear()
        shutil.rmtree(vae.parent.parent.parent / "trees")
    _set_up(monkeypatch, hub.url, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert set(open_weights("hf://tiny/sd/vae").parts) == {"vae"}
    for name in ("tiny/sd", "hf://tiny/sd/unet"):
        with pytest.raises(UserError, match=rf"^--workdir={name}: .*not in the download cache"):
            open_weights(name, argument="--workdir")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "Invalid credentials in Authorization header"), "answers with HTTP 401: give a tok"),
        ((403, "Forbidden"), "answers with HTTP 403: give a token"),
        ((429, "Too many requests"), "answers with HTTP 429: try again later"),
        ((200, "a login page"), "does not answer as a hub does: check HF_ENDPOINT"),
    ],
)
def test_a_hub_that_refuses_is_quoted(hub, refusal, words):
    hub.refusal = refusal
    with pytest.raises(UserError, match=f"^--workdir=tiny/sd: {hub.url} {words}"):
        open_weights("tiny/sd", argument="--workdir")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny/none", "no such file or folder, and no such model at {url}, or a private one"),
        ("hf://tiny/none", "no such model at {url}, or a private one"),
        ("hf://tiny/sd@v9", "{url}/tiny/sd has no branch, tag or commit v9"),
        ("hf://tiny/sd/unet_3", "no unet_3 in it; there are README.md, "),
        ("hf://tiny/sd/sd.ckpt", "no sd.ckpt in it; there are README.md, "),
    ],
)
def test_what_is_not_on_the_hub_is_one_line(hub, name, words):
    with pytest.raises(UserError) as caught:
        open_weights(name, argument="config.init_from")
    assert str(caught.value).startswith(f"config.init_from={name}: {words.format(url=hub.url)}")
    assert "\n" not in str(caught.value)
    assert hub.fetched() == []


@pytest.mark.parametrize("place", ["HF_TOKEN", "token file"])
def test_a_gated_repository_opens_with_a_token_and_else_says_what_it_needs(
    hub, place, monkeypatch, tmp_path
):
    hub.repositories["tiny/sd"].gated = True
    for token in ("", "hf_of_a_stranger", TOKEN):
        home = tmp_path / "home"
        if place == "HF_TOKEN" or not token:
            _set_up(monkeypatch, hub.url, home, **({"HF_TOKEN": token} if token else {}))
        else:
            (home / "token").write_text(token)
            _set_up(monkeypatch, hub.url, home)
        if token == TOKEN:
            assert set(open_weights("tiny/sd").parts) == PARTS
        else:
            with pytest.raises(UserError) as caught:
                open_weights("tiny/sd", argument="config.vae_from")
            assert str(caught.value) == (
                f"config.vae_from=tiny/sd: gated: accept its terms at {hub.url}/tiny/sd, and give "
                "a token (HF_TOKEN, or `hf auth login`) of that account"
            )
            assert hub.fetched() == []


def test_a_download_that_breaks_off_is_resumed_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks = 1
    assert set(open_weights("hf://tiny/sd/vae").parts) == {"vae"}
    content = hub.repositories["tiny/sd"].files["main"][FILES["vae"]]
    first, second = [asked for asked in hub.asked if asked[1].endswith(FILES["vae"])][-2:]
    assert first[2] is None
    assert second[2] == f"bytes={len(content) // 2 // 1000 * 1000}-"
    assert (
        locate("hf://tiny/sd/vae", argument="") / Path(FILES["vae"]).name
    ).read_bytes() == content


def test_a_download_that_breaks_off_for_good_keeps_what_is_complete(hub, tmp_path):
    hub.breaks = 100
    with pytest.raises(UserError) as caught:
        open_weights("tiny/sd", argument="--workdir")
    assert str(caught.value).startswith("--workdir=tiny/sd: the download broke off (")
    assert str(caught.value).endswith(
        "): run the command again; the files that are complete are kept"
    )
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    had = {name for name in hub.fetched() if not name.endswith(".safetensors")}
    assert had
    hub.breaks = 0
    hub.asked.clear()
    assert set(open_weights("tiny/sd").parts) == PARTS
    assert set(hub.fetched()) == _read_of_the_pipeline() - had


def test_a_disk_that_is_too_small_is_named_before_the_download(hub, monkeypatch, tmp_path):
    cache = tmp_path / "home" / "hub"
    with monkeypatch.context() as patch:
        patch.setattr(hub_module.shutil, "disk_usage", lambda _: Namespace(free=1000))
        with pytest.raises(
            UserError, match=rf"--workdir=tiny/sd: needs \d.* {cache} has 0.0 MB free"
        ):
            open_weights("tiny/sd", argument="--workdir")
        assert hub.fetched() == ["model_index.json"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make space, or set HF_HOME to a folder of another disk"),
        (errno.EACCES, "set HF_HOME to a folder that can be written"),
    ],
)
def test_a_cache_that_cannot_be_written_is_one_line(hub, number, advice, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", refuse)
    cache = tmp_path / "home" / "hub"
    words = f"--workdir=tiny/sd: {cache}: {os.strerror(number)}: {advice}"
    with pytest.raises(UserError, match=f"^{words}$"):
        open_weights("tiny/sd", argument="--workdir")


def test_peft_s_settings_come_with_a_lora(hub, tmp_path):
    lora = random_lora(tiny_folder(), r"attn1\.to_q", rank=4, text=False)
    file = save_lora(tmp_path / "lora.safetensors", tensors_of(lora, peft)).read_bytes()
    adapter = {"adapter_model.safetensors": file, "adapter_config.json": b'{"lora_alpha": 8}'}
    lone = {"pytorch_lora_weights.safetensors": file, "README.md": b"never read"}
    hub.repositories |= {"a/peft": Repository({"main": adapter}), "a/b": Repository({"main": lone})}
    parts = open_weights(tiny_folder()).parts
    part = with_loras(parts, ["a/b:0.5", "hf://a/peft:0.25"], argument="--lora")["unet"]
    assert sorted(hub.fetched()) == sorted([*adapter, "pytorch_lora_weights.safetensors"])
    path = "mid_block.stages.0.transformer.transformer_blocks.0.attn1.to_q.kernel"
    before, after = (flatten(one.load(one.shapes()))[path] for one in (parts["unet"], part))
    down, up = lora["unet"]["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    expected = (0.5 + 0.25 * 8 / 4) * (up @ down).T.numpy()
    np.testing.assert_allclose(after - before, expected, rtol=1e-4, atol=1e-5)
