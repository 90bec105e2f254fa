"""CLIP's tokenizer: captions to ids, and a small vocabulary of the same kind for captions of few words."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from magicvideo_jax.core.errors import UserError

Tokenize = Callable[[Sequence[str]], Int32[np.ndarray, "b l"]]
"""Captions to ids: a `CaptionTokenizer` does it."""

START, END = "<|startoftext|>", "<|endoftext|>"


class CaptionTokenizer:
    """Captions -> ids of fixed length: start, byte pairs, end, then padding; longer captions are cut."""

    def __init__(self, folder: Path, *, length: int):
        # Imported here: it takes a second that no other command should pay.
        from transformers import CLIPTokenizer

        if not (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
            raise UserError(
                f"{folder}: no tokenizer here (vocab.json and merges.txt, or tokenizer.json)"
            )
        self.folder = folder
        self._tokenizer = CLIPTokenizer.from_pretrained(str(folder))
        self._length = length

    def __call__(self, captions: Sequence[str]) -> Int32[np.ndarray, "b l"]:
        encoded = self._tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="np",
        )
        return encoded["input_ids"].astype(np.int32)

    @property
    def vocabulary_size(self) -> int:
        return len(self._tokenizer)


def build_vocabulary(words: Iterable[str], folder: Path, *, length: int) -> None:
    """Byte pairs merged until each of `words` is one token, in the files that CLIPTokenizer reads.

    Any other text still has ids: it falls into smaller pieces.
    """
    words = sorted(set(words))
    bpe = Tokenizer(
        models.BPE(unk_token=END, end_of_word_suffix="</w>", continuing_subword_prefix="")
    )
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        initial_alphabet=alphabet,
        # Pieces that get their ids before any word is read: the trainer settles ties by id, and would number these
        # in the order of a hash table, another one in each process.
        special_tokens=[letter + "</w>" for letter in alphabet],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [
        tuple(pair) if isinstance(pair, list) else tuple(pair.split(" "))
        for pair in model["merges"]
    ]
    pieces = (
        alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    )
    vocabulary = {piece: i for i, piece in enumerate([*dict.fromkeys(pieces), START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            special | {"model_max_length": length, "tokenizer_class": "CLIPTokenizer"}, indent=2
        )
        + "\n"
    )
