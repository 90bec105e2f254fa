"""Keys of transformers' CLIPTextModel, and what its files hold beside the text encoder."""

from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.naming import Aliases, Table, TableRow

TEXT_TABLE: Table = (
    TableRow(r"(token_embedding|position_embedding)", r"text_model.embeddings.\1"),
    TableRow(r"(layers\.\d+)\.([qkv]_proj|out_proj)", r"text_model.encoder.\1.self_attn.\2"),
    TableRow(r"(layers\.\d+)\.(layer_norm[12])", r"text_model.encoder.\1.\2"),
    TableRow(r"(layers\.\d+)\.(fc[12])", r"text_model.encoder.\1.mlp.\2"),
    TableRow(r"final_layer_norm", r"text_model.final_layer_norm"),
)

# transformers 5 writes the keys of a text model without the prefix that every published file has.
TEXT_ALIASES: Aliases = ((r"((?:embeddings|encoder|final_layer_norm)\..*)", r"text_model.\1"),)

TEXT_EXTRAS = (
    KnownExtra(r"text_model\.embeddings\.position_ids"),
    KnownExtra(
        r"(vision_model|visual_projection)\..*|logit_scale|text_projection(\.weight)?",
        "the rest of a whole CLIP",
    ),
)
