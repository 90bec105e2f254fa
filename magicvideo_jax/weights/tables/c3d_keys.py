"""Keys of C3D's file `conv3d_deepnetA_ucf.npz`, as Chainer writes them for TGANv2."""

from magicvideo_jax.weights.tables.naming import Aliases, Table, TableRow

C3D_TABLE: Table = (TableRow(r"(conv\d[ab]|fc\d)", r"\1"),)
C3D_LEAVES: Aliases = ((r"(\w+)\.weight", r"\1/W"), (r"(\w+)\.bias", r"\1/b"))
C3D_LAYERS = (
    *("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"),
    *("fc6", "fc7"),
)
"""All layers but the last: none has a norm."""
