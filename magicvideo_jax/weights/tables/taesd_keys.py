"""Keys of TAESD's files, with the half they belong to in front: `encoder.3.conv.0.weight`."""

from magicvideo_jax.weights.tables.naming import Table, TableRow
from magicvideo_jax.weights.tables.vae_keys import VIDEO_DECODER

# A block's second and third convolution follow a ReLU, which has a number of its own in the
# published files.
TAESD_TABLE: Table = (
    VIDEO_DECODER,
    TableRow(r"(encoder|decoder)\.layers\.(\d+)", r"\1.\2"),
    TableRow(r"(encoder|decoder)\.layers\.(\d+)\.conv\.0", r"\1.\2.conv.0"),
    TableRow(r"(encoder|decoder)\.layers\.(\d+)\.conv\.1", r"\1.\2.conv.2"),
    TableRow(r"(encoder|decoder)\.layers\.(\d+)\.conv\.2", r"\1.\2.conv.4"),
)
