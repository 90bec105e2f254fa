"""Trees as tables, split and merged."""

import numpy as np
import pytest

from magicvideo_jax.core.tree import merge, split_by_path

TREE = {"unet": {"in": np.ones(2), "out": np.zeros(3)}, "vae": {"in": np.ones(1)}}


def test_merge_inverts_split():
    ours, theirs = split_by_path(TREE, lambda path: path.endswith("in"))
    assert merge(ours, theirs) == TREE


def test_trees_with_a_leaf_in_common_are_refused_by_its_path():
    with pytest.raises(ValueError, match=r"unet\.in"):
        merge({"unet": {"in": np.ones(2)}}, TREE)
