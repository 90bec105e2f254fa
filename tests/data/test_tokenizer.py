"""The small vocabulary in CLIP's format: every word one token, the same files each time, read by CLIPTokenizer."""

import numpy as np
import pytest
from transformers import CLIPTokenizer

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn.shape_clips import vocabulary
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_vocabulary(vocabulary(), folder, length=24)
    return CaptionTokenizer(folder, length=24)


def test_every_word_is_one_token(tokenizer):
    ids = tokenizer(sorted(vocabulary()))
    end = ids.max()
    assert ((ids != end).sum(axis=1) == 2).all()  # the start and the word
    assert len(np.unique(ids[:, 1])) == len(vocabulary())


def test_other_words_fall_into_pieces_and_case_does_not_count(tokenizer):
    ids = tokenizer(["zebra", "A Red CIRCLE", "a red circle"])
    assert (ids[0] != ids.max()).sum() > 2
    np.testing.assert_array_equal(ids[1], ids[2])


def test_the_same_words_give_the_same_files(tokenizer, tmp_path):
    for i in range(5):
        build_vocabulary(sorted(vocabulary(), reverse=True), tmp_path / str(i), length=24)
        for file in tokenizer.folder.iterdir():
            assert (tmp_path / str(i) / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_long_caption_is_cut_and_ends(tokenizer):
    ids = tokenizer(["red " * 50])
    assert ids.shape == (1, 24)
    assert ids[0, -1] == ids.max()


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match="no tokenizer here"):
        CaptionTokenizer(tmp_path, length=24)


def test_ids_are_those_of_cliptokenizer(tokenizer):
    captions = ["a red circle", "", "zebra " * 40, "A small, red heart!"]
    theirs = CLIPTokenizer.from_pretrained(str(tokenizer.folder))(
        captions, padding="max_length", truncation=True, max_length=24
    )["input_ids"]
    np.testing.assert_array_equal(tokenizer(captions), theirs)


def test_the_end_of_a_long_prompt_is_named_and_of_captions_only_the_first(tokenizer, capfd):
    fits = "red " * 22
    for name_each, lines in ((True, 2), (False, 1)):
        tokenize = CaptionTokenizer(tokenizer.folder, length=24, name_each=name_each)
        tokenize([fits])
        assert not capfd.readouterr().err
        tokenize([f"{fits} and blue", f"{fits} and blue", f"{fits} green"])
        tokenize([f"{fits} green"])
        said = capfd.readouterr().err
        assert said.count("\n") == lines
        assert "reads 24 tokens" in said
        assert "'and blue'" in said
        assert ("'green'" in said) is name_each
