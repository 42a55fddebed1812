#!/usr/bin/env bash
# Samples long videos: sparse keys one window after another, then the gaps between them.
#
#   PREDICT=runs/predict_sky/model.safetensors INFILL=runs/infill_sky/model.safetensors bash shellscripts/sample_long.sh --num 4
#
# Hardware  a GPU; a CPU is slow, except for the toy's model. NPROC=8 divides the videos over 8 GPUs
# Time      not measured here for published sizes; the toy's: docs/benchmarks.md
# Result    samples/NAME/seed0-00000.mp4 and so on, of 1,000 frames unless --frames is given, and a contact sheet
#
# PREDICT and INFILL may be one joint model. Further arguments are passed to scripts/sample_long.py; its --help lists them.
# For plain autoregressive sampling, run scripts/sample_long.py without --infill.
source "$(dirname "${BASH_SOURCE[0]}")/help.bash"
: "${PREDICT:?model.safetensors of a model that continues key latents}"
: "${INFILL:?model.safetensors of a model that fills the gaps between them}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/sample_long.py" --predict "$PREDICT" --infill "$INFILL" --contact-sheet "$@"
