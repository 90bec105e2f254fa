"""Keys of FID's Inception V3 as pytorch-fid and torch-fidelity publish it."""

from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.naming import Table, TableRow

INCEPTION_TABLE: Table = (
    TableRow(r"fc", r"fc"),
    TableRow(r"(.+)\.conv", r"\1.conv"),
    TableRow(r"(.+)\.norm", r"\1.bn"),
)
INCEPTION_EXTRAS = (KnownExtra(r".*\.num_batches_tracked"),)

INCEPTION_OTHERS = (
    (
        r"AuxLogits\..*",
        "torchvision's Inception V3, which was trained anew, so that its distances are no FID: give "
        "pt_inception-2015-12-05-6726825d.pth of pytorch-fid",
    ),
)
INCEPTION_SHA256 = {"6726825d": "Inception V3 2015-12-05 (FID)"}
"""Published files by the beginning of their SHA-256."""
