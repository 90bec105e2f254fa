#!/bin/sh
# Trains text to image and then text to video on all 734 animations, on one accelerator, and samples some clips:
#     examples/fluent_emoji/train_all.sh OUT
# The README says how the sets in emoji/ are prepared. OUT receives both work folders and clips.gif. What follows OUT
# is for both runs, such as --config.train.steps=2 to try it.
set -eu

if [ $# -lt 1 ]; then sed -n '2,5s/^# //p' "$0" >&2 && exit 2; fi
out=$1 && shift
train() { python -m magicvideo_jax.train "$@"; }
train --config=configs/t2i.py:emoji_all --workdir="$out/t2i" --config.init_from=emoji/vae "$@"
train --config=configs/t2v.py:emoji_all --workdir="$out/t2v" --config.init_from="$out/t2i" "$@"
python -m magicvideo_jax.sample --workdir="$out/t2v" --out="$out/clips.gif" --sheet \
    --prompt="rocket on a dark blue background" --prompt="rainbow on a purple background" \
    --prompt="penguin on a white background" --prompt="octopus on a dark green background"
