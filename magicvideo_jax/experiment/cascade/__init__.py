"""Networks that make of sampled clips better ones: more frames, more pixels. One file for each."""
