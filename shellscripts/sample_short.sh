#!/usr/bin/env bash
# Samples short clips from a model file.
#
#   MODEL=runs/short_sky/model.safetensors bash shellscripts/sample_short.sh --num 16
#
# Hardware  a GPU; a CPU is slow, except for the toy's model. NPROC=8 divides the videos over 8 GPUs
# Time      4 clips of short_sky by --sampler ddim (its own is DDPM with 1,000 steps): 2.6 s on an H200 without decoding
# Result    samples/NAME/seed0-00000.mp4 and so on; video i of a seed is the same for any batch size and number of processes
#
# Further arguments are passed to scripts/sample_short.py; its --help lists them.
source "$(dirname "${BASH_SOURCE[0]}")/help.bash"
: "${MODEL:?model.safetensors of a diffusion model}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/sample_short.py" "$MODEL" "$@"
