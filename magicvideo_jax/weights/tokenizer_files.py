"""The files of a CLIP tokenizer, checked when weights are opened and not only at the first
prompt."""

from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensor_files import read_json

VOCABULARY, MERGES, FAST = "vocab.json", "merges.txt", "tokenizer.json"


def tokenizer_size(folder: Path) -> int:
    """One more than the largest token id in a tokenizer's files.

    Errors: `UserError` naming a file that is missing or broken.
    """
    if (folder / VOCABULARY).is_file():
        ids = read_json(folder / VOCABULARY)
        if not (folder / MERGES).is_file() and not (folder / FAST).is_file():
            raise UserError(f"{folder}: {VOCABULARY} without {MERGES}: copy that file, too")
    elif (folder / FAST).is_file():
        model = read_json(folder / FAST).get("model")
        ids = model.get("vocab") if isinstance(model, dict) else None
    else:
        raise UserError(f"{folder}: no tokenizer here ({VOCABULARY} and {MERGES}, or {FAST})")
    if not isinstance(ids, dict) or not ids or not all(isinstance(i, int) for i in ids.values()):
        raise UserError(
            f"{folder}: its vocabulary is no table from tokens to ids: copy the files anew"
        )
    return max(ids.values()) + 1
