"""Keys of transformers' CLIP encoders, and what files hold beside the one that is read."""

from magicvideo_jax.weights.tables.known_extras import KnownExtra
from magicvideo_jax.weights.tables.naming import Aliases, NamingStyle, Table, TableRow

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

TEXT_EMBEDDER_TABLE: Table = (*TEXT_TABLE, TableRow(r"projection", r"text_projection"))

VISION_TABLE: Table = (
    TableRow(r"(patch_embedding|position_embedding)", r"vision_model.embeddings.\1"),
    # A parameter of no layer: the class token.
    TableRow(r"", r"vision_model.embeddings", NamingStyle.OURS),
    TableRow(r"pre_layer_norm", r"vision_model.pre_layrnorm"),  # so spelt there
    TableRow(r"(layers\.\d+)\.([qkv]_proj|out_proj)", r"vision_model.encoder.\1.self_attn.\2"),
    TableRow(r"(layers\.\d+)\.(layer_norm[12])", r"vision_model.encoder.\1.\2"),
    TableRow(r"(layers\.\d+)\.(fc[12])", r"vision_model.encoder.\1.mlp.\2"),
    TableRow(r"post_layer_norm", r"vision_model.post_layernorm"),
    TableRow(r"projection", r"visual_projection"),
    TableRow(r"to_text", r"to_text", NamingStyle.OURS),  # of an `ImagePrompt`
)

# Of a whole CLIP each encoder is read by itself, so that nobody misses the other.
VISION_EXTRAS = (
    KnownExtra(r"(vision_model\.embeddings\.position_ids|logit_scale|logit_bias)"),
    KnownExtra(r"(text_model|text_projection)\..*"),
)
TEXT_EMBEDDER_EXTRAS = (
    KnownExtra(r"(text_model\.embeddings\.position_ids|logit_scale|logit_bias)"),
    KnownExtra(r"(vision_model|visual_projection)\..*"),
)
