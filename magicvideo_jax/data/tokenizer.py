"""CLIP's tokenizer: captions to ids, and a small vocabulary of the same kind for captions of few
words."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.progress import say

Tokenize = Callable[[Sequence[str]], Int32[np.ndarray, "b l"]]
"""Captions to ids: a `CaptionTokenizer` does it."""

START, END = "<|startoftext|>", "<|endoftext|>"
_MOST_CHARACTERS = 200


class CaptionTokenizer:
    """Captions -> ids of fixed length: start, byte pairs, end, then padding.

    Longer captions are cut, with a line on stderr: the first caption alone (training), or each
    (`name_each`). Errors: `UserError` naming a folder that holds no tokenizer or a broken one.
    """

    def __init__(self, folder: Path, *, length: int, name_each: bool = False):
        # Imported here: it takes a second that no other command should pay. Its advice to install
        # torch is none for people who need nothing but a tokenizer.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import CLIPTokenizer

        if not (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
            raise UserError(
                f"{folder}: no tokenizer here (vocab.json and merges.txt, or tokenizer.json)"
            )
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(str(folder))
        except Exception as error:  # tokenizers raises bare `Exception`s, transformers any kind
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{folder}: CLIP's tokenizer cannot be read ({reason[:200]}): copy vocab.json and "
                "merges.txt anew"
            ) from error
        self.folder = folder
        self._length, self._name_each = length, name_each
        self._named: set[str] = set()

    def __call__(self, captions: Sequence[str]) -> Int32[np.ndarray, "b l"]:
        ids = self._tokenizer(list(captions), add_special_tokens=False, verbose=False)["input_ids"]
        rows = np.full((len(captions), self._length), self._tokenizer.pad_token_id, np.int32)
        most = self._length - 2
        for row, caption, own in zip(rows, captions, ids, strict=True):
            if len(own) > most:
                self._name_end(caption)
            used = [self._tokenizer.bos_token_id, *own[:most], self._tokenizer.eos_token_id]
            row[: len(used)] = used
        return rows

    @property
    def vocabulary_size(self) -> int:
        return len(self._tokenizer)

    def note_on(self, caption: str) -> str:
        """Note that a caption is longer than the encoder's tokens, with the end that is cut; else empty."""
        encoded = self._tokenizer(
            caption, add_special_tokens=False, verbose=False, return_offsets_mapping=True
        )
        most = self._length - 2
        if len(encoded["input_ids"]) <= most:
            return ""
        end = caption[encoded["offset_mapping"][most][0] :]
        dots = " ..." if len(end) > _MOST_CHARACTERS else ""
        return (
            f"note: the text encoder reads {self._length} tokens; the end of a longer caption is cut: "
            f"{end[:_MOST_CHARACTERS]!r}{dots}"
        )

    def _name_end(self, caption: str) -> None:
        """Print the note on a caption, once."""
        if caption in self._named or (self._named and not self._name_each):
            return
        self._named.add(caption)
        more = "" if self._name_each else " (only the first such caption is named)"
        say(f"{self.note_on(caption)}{more}")


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
        # Pieces that get their ids before any word is read: the trainer settles ties by id, and
        # would number these in the order of a hash table, another one in each process.
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
