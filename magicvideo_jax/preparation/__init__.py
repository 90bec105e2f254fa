"""Making data sets: which clips there are, their captions, their latents and text states, shards."""
