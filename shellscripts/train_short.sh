#!/usr/bin/env bash
# Trains LVDM's model of short clips (16 frames, 548.9 M parameters) on the latents of an autoencoder.
#
#   VIDEOS=/path/to/sky_timelapse AUTOENCODER=runs/autoencoder_sky/model.safetensors bash shellscripts/train_short.sh
#
# Hardware  GPUs; 10.5 GiB each without the average of the weights, measured on an H200 (docs/benchmarks.md)
# Time      2,000 epochs, as published (trainer.max_steps=N: fewer); on an H200 4 clips take .355 s without reading videos
# Result    runs/short_sky: model.safetensors for sample_short.sh, previews, val losses in metrics.csv
#
# NPROC=8 uses 8 GPUs of this machine. For several machines, start the command below with torchrun or srun.
# Further arguments are passed to scripts/train.py: key=value, --name, --dry-run, --resume (see its --help).
source "$(dirname "${BASH_SOURCE[0]}")/help.bash"
: "${VIDEOS:?a folder that holds train/ and test/ with videos or folders of images}"
: "${AUTOENCODER:?model.safetensors of a trained autoencoder}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/train.py" "$root/configs/lvdm/short_sky.yaml" "define.data=$VIDEOS" "codec_weights=$AUTOENCODER" "$@"
