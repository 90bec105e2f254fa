"""Keys of I3D's files: of pytorch-i3d (and VideoGPT, TATS, cd-fvd), of the TorchScript port, and of
TensorFlow's variables."""

from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.naming import Aliases, NamingStyle, Table, TableRow

I3D_TABLE: Table = (
    TableRow(r"logits", r"logits.conv3d"),
    TableRow(r"(.+)\.conv", r"\1.conv3d"),
    TableRow(r"(.+)\.norm", r"\1.bn"),
)

_PORT_UNITS = (
    (r"Conv3d_(\w+)", r"conv3d_\1"),
    (r"Mixed_(\w+)\.b0", r"mixed_\1.branch_0"),
    (r"Mixed_(\w+)\.b(\d)a", r"mixed_\1.branch_\2.0"),
    (r"Mixed_(\w+)\.b(\d)b", r"mixed_\1.branch_\2.1"),
)
I3D_PORT_TABLE: Table = (
    TableRow(r"logits", r"conv3d_0c_1x1.conv3d"),
    *(TableRow(rf"{ours}\.conv", f"{theirs}.conv3d") for ours, theirs in _PORT_UNITS),
    *(TableRow(rf"{ours}\.norm", f"{theirs}.batch3d") for ours, theirs in _PORT_UNITS),
)

_TENSORFLOW_UNITS = (
    (r"(Conv3d_\w+)", r"\1"),
    (r"(Mixed_\w+)\.b([012])a?", r"\1/Branch_\2/Conv3d_0a_1x1"),
    (r"(Mixed_5b)\.b2b", r"\1/Branch_2/Conv3d_0a_3x3"),  # so named there, unlike all others
    (r"(Mixed_\w+)\.b([12])b", r"\1/Branch_\2/Conv3d_0b_3x3"),
    (r"(Mixed_\w+)\.b3b", r"\1/Branch_3/Conv3d_0b_1x1"),
)
# TensorFlow's kernels have our layout; `I3D_TENSORFLOW_LEAVES` makes its names of what these rows give.
I3D_TENSORFLOW_TABLE: Table = (
    TableRow(r"logits", r"Logits/Conv3d_0c_1x1/conv_3d", NamingStyle.OURS),
    *(TableRow(rf"{x}\.conv", f"{y}/conv_3d", NamingStyle.OURS) for x, y in _TENSORFLOW_UNITS),
    *(TableRow(rf"{x}\.norm", f"{y}/batch_norm", NamingStyle.OURS) for x, y in _TENSORFLOW_UNITS),
)
I3D_TENSORFLOW_LEAVES: Aliases = (
    (r"(.*/conv_3d)\.kernel", r"\1/w"),
    (r"(.*/conv_3d)\.bias", r"\1/b"),
    (r"(.*/batch_norm)\.bias", r"\1/beta"),
    (r"(.*/batch_norm)\.scale", r"\1/gamma"),
    (r"(.*/batch_norm)\.(mean|variance)", r"\1/moving_\2"),
)

I3D_EXTRAS = (
    KnownExtra(r".*\.num_batches_tracked"),
    KnownExtra(r".*/Momentum|global_step|.*/ExponentialMovingAverage"),  # of TensorFlow's training
)

I3D_FINGERPRINTS = {
    "f40ebf1e": "I3D Kinetics-400 (TF-Hub)",
    "658e7402": "I3D Kinetics-400 from ImageNet (rgb_imagenet)",
    "f10c1c5f": "I3D Kinetics-600",
}
"""Published weights by the checksum of the bias of the logits."""
