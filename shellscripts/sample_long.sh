#!/usr/bin/env bash
# Makes long videos: sparse keys one window after another, then the gaps between them.
#
#   PREDICT=runs/predict_sky/model.safetensors INFILL=runs/infill_sky/model.safetensors bash shellscripts/sample_long.sh --num 4
#
# Hardware  a GPU, or patience; the toy's model: CPU. Several GPUs share the videos: NPROC=8
# Time      not measured here for published sizes; the toy's: docs/benchmarks.md
# Result    samples/NAME/seed0-00000.mp4 and so on, of 1,000 frames unless --frames says otherwise, and a contact sheet
#
# PREDICT and INFILL may be one joint model. What follows goes on to scripts/sample_long.py; its --help lists all
# (the plain autoregressive way is scripts/sample_long.py without --infill).
: "${PREDICT:?model.safetensors of a model that continues key latents}"
: "${INFILL:?model.safetensors of a model that fills the gaps between them}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/sample_long.py" --predict "$PREDICT" --infill "$INFILL" --contact-sheet "$@"
