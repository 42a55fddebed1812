#!/usr/bin/env bash
# Measures a model against real videos by a named protocol, and records all that the number depends on.
#
#   MODEL=runs/short_sky/model.safetensors REAL=/path/to/sky_timelapse PROTOCOL=lvdm-fvd2048 bash shellscripts/evaluate.sh
#
# Hardware  a GPU, because 2,048 clips are sampled; on two CPU cores the features alone take 2,048 x 2 x 0.4 s
# Time      not measured here for published sizes
# Result    results/NAME-PROTOCOL.json and its manifest; the line for a paper's table is printed
#
# The weights of the protocol's network are in LVDM_WEIGHTS, or are downloaded (scripts/eval.py weights lists them).
# NPROC=8 divides the clips over 8 GPUs. Further arguments are passed to scripts/eval.py; its --help lists them.
source "$(dirname "${BASH_SOURCE[0]}")/help.bash"
: "${MODEL:?model.safetensors of a diffusion model, or a folder of generated videos}"
: "${REAL:?a folder of the real videos}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/eval.py" --fake "$MODEL" --real "$REAL" --protocol "${PROTOCOL:-styleganv-fvd2048-16f}" "$@"
