"""Which files of a repository are fetched: the names alone decide, by the rules of local folders."""

import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.hub.hub_files import hub_files
from magicvideo_jax.weights.hub.hub_name import HubName, hub_name

STEM = "diffusion_pytorch_model"
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
TOKENIZER = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
# The repository of Stable Diffusion 1.5, as it is published.
PUBLISHED = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "v1-inference.yaml",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
    *(
        f"{folder}/{name}"
        for folder, older in (
            ("safety_checker", "pytorch_model"),
            ("text_encoder", "pytorch_model"),
        )
        for name in (
            "config.json",
            "model.safetensors",
            "model.fp16.safetensors",
            f"{older}.bin",
            f"{older}.fp16.bin",
        )
    ),
    *(
        f"{folder}/{STEM}{ending}"
        for folder in ("unet", "vae")
        for ending in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
    ),
    "unet/config.json",
    "vae/config.json",
    *(f"unet/{STEM}.non_ema.{ending}" for ending in ("safetensors", "bin")),
]
READ = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER),
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    f"unet/{STEM}.safetensors",
    "vae/config.json",
    f"vae/{STEM}.safetensors",
}


def _chosen(listing, path="", **options):
    found = hub_files(listing, path, where="config.init_from=some/model", **options)
    assert len(set(found.paths)) == len(found.paths)
    return set(found.paths), found.opened


def test_motion_modules_that_the_u_net_holds_are_not_read_twice():
    index = PIPELINE | {
        "unet": ["diffusers", "UNetMotionModel"],
        "motion_adapter": ["diffusers", "MotionAdapter"],
    }
    adapter = ["motion_adapter/config.json", f"motion_adapter/{STEM}.safetensors"]
    assert _chosen([*PUBLISHED, *adapter], index=index) == (READ, "")


def test_of_a_published_pipeline_each_network_is_fetched_once():
    assert _chosen(PUBLISHED, index=PIPELINE) == (READ, "")


@pytest.mark.parametrize(
    ("variant", "networks"), [("fp16", ["text_encoder", "unet", "vae"]), ("non_ema", ["unet"])]
)
def test_a_variant_takes_the_place_of_the_plain_files_where_it_exists(variant, networks):
    chosen, _ = _chosen(PUBLISHED, index=PIPELINE, variant=variant)
    named = {name for name in chosen if f".{variant}." in name}
    assert {name.split("/")[0] for name in named} == set(networks)
    assert {name.replace(f".{variant}", "") for name in chosen} == READ


def test_a_variant_that_is_not_there_is_refused_before_anything_is_fetched():
    with pytest.raises(UserError, match=r"--variant=fp8: .*some/model has fp16, non_ema"):
        _chosen(PUBLISHED, index=PIPELINE, variant="fp8")


def test_pickles_are_fetched_where_there_is_nothing_else():
    listing = [name for name in PUBLISHED if not name.endswith(".safetensors")]
    chosen, _ = _chosen(listing, index=PIPELINE)
    assert {name for name in chosen if name.endswith(".bin")} == {
        "text_encoder/pytorch_model.bin",
        f"unet/{STEM}.bin",
        f"vae/{STEM}.bin",
    }


def test_shards_come_with_their_index_and_not_those_of_a_variant():
    index = f"{STEM}.safetensors.index.json"
    shards = [f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    halves = [f"{STEM}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    fp16 = f"{STEM}.safetensors.index.fp16.json"
    folder = ["config.json", index, *shards, fp16, *halves]
    assert _chosen(folder) == ({"config.json", index, *shards}, "")
    assert _chosen(folder, variant="fp16") == ({"config.json", fp16, *halves}, "")
    assert _chosen([f"unet/{name}" for name in folder], f"unet/{index}") == (
        {f"unet/{name}" for name in (index, *shards)},
        f"unet/{index}",
    )


@pytest.mark.parametrize(
    ("listing", "path", "chosen", "opened"),
    [
        # MotionAdapter, or a VAE alone
        (["README.md", "config.json", f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"], "",
         ["config.json", f"{STEM}.safetensors"], ""),
        # one part of a pipeline
        (PUBLISHED, "vae", ["vae/config.json", f"vae/{STEM}.safetensors"], "vae"),
        # one file
        (PUBLISHED, "v1-5-pruned.ckpt", ["v1-5-pruned.ckpt"], "v1-5-pruned.ckpt"),
        # LoRA without config.json, twice
        (["README.md", "pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors"], "",
         ["pytorch_lora_weights.safetensors"], "pytorch_lora_weights.safetensors"),
        ([f"{STEM}.safetensors", f"{STEM}.bin"], "", [f"{STEM}.safetensors"], f"{STEM}.safetensors"),
        (["a/b/motion.ckpt", "c.ckpt"], "a/b", ["a/b/motion.ckpt"], "a/b/motion.ckpt"),
        # LoRA of PEFT: its alpha stands beside it
        (["README.md", "adapter_config.json", "adapter_model.safetensors"], "",
         ["adapter_config.json", "adapter_model.safetensors"], "adapter_model.safetensors"),
        (["a/adapter_config.json", "a/adapter_model.safetensors"], "a/adapter_model.safetensors",
         ["a/adapter_config.json", "a/adapter_model.safetensors"], "a/adapter_model.safetensors"),
        # TAESD
        (["config.json", f"{STEM}.safetensors", "taesd_encoder.safetensors",
          "taesd_decoder.safetensors"], "",
         ["taesd_encoder.safetensors", "taesd_decoder.safetensors"], ""),
        # a VAE with temporal layers, as `convert` writes it
        (["vae/config.json", f"vae/{STEM}.safetensors", "vae_temporal/config.json",
          f"vae_temporal/{STEM}.safetensors", "notes.md"], "",
         ["vae/config.json", f"vae/{STEM}.safetensors", "vae_temporal/config.json",
          f"vae_temporal/{STEM}.safetensors"], ""),
    ],
)  # fmt: skip
def test_folders_and_files_of_each_form(listing, path, chosen, opened):
    assert _chosen(listing, path) == (set(chosen), opened)


def test_a_converted_folder_is_fetched_whole():
    ours = ["model_index.json", "unet/config.json", "unet/params/d/0/1", "unet/params/_METADATA"]
    assert _chosen(ours, index={"_format": "magicvideo_jax"}) == (set(ours), "")


@pytest.mark.parametrize(
    ("listing", "options", "words"),
    [
        (
            ["mm_sd_v14.ckpt", "mm_sd_v15.ckpt"],
            {},
            "several .* the name of one: mm_sd_v14.ckpt, mm_",
        ),
        (["README.md", "model.onnx"], {}, "no weights in it; there are README.md, model.onnx"),
        (PUBLISHED, {"path": "unet_2"}, "no unet_2 in it; there are "),
        (["config.json", "tf_model.h5"], {}, "no weights in it$"),
        (["config.json", f"{STEM}.non_ema.bin"], {}, "no weights in it, only the variants non_ema"),
        (
            [name for name in PUBLISHED if not name.startswith("vae/diff")],
            {"index": PIPELINE},
            "no weights in vae/$",
        ),
    ],
)
def test_what_cannot_be_opened_is_refused_before_it_is_fetched(listing, options, words):
    with pytest.raises(UserError, match=f"^config.init_from=some/model: {words}"):
        _chosen(listing, **options)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("some/model", ("some/model", None, "")),
        ("some/model@v1.0", ("some/model", "v1.0", "")),
        ("hf://some/model", ("some/model", None, "")),
        ("hf://some/model@refs/pr/3/unet/", ("some/model", "refs/pr/3", "unet")),
        ("hf://some/model/a/b.ckpt", ("some/model", None, "a/b.ckpt")),
        ("https://huggingface.co/some/model/blob/main/a.ckpt", ("some/model", "main", "a.ckpt")),
    ],
)
def test_names_of_each_form_are_parsed(text, parsed):
    assert hub_name(text, argument="--lora") == HubName(text, *parsed)


@pytest.mark.parametrize(
    "text",
    ["model", "/some/model", "./some/model", "a/b/c", "runs/sd.ckpt", "a--b/c", "datasets/x"],
)
def test_other_texts_name_nothing_on_the_hub(text):
    assert hub_name(text, argument="--lora") is None


@pytest.mark.parametrize("text", ["hf://", "hf://model", "hf://datasets/some/clips"])
def test_an_address_that_names_no_model_is_refused(text):
    with pytest.raises(UserError, match=f"^--lora={text}: "):
        hub_name(text, argument="--lora")
