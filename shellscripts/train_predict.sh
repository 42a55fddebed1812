#!/usr/bin/env bash
# Trains LVDM's model of key latents (4 latents of 64 frames, 549.2 M parameters), which begins and continues long videos.
#
#   VIDEOS=/path/to/sky_timelapse AUTOENCODER=runs/autoencoder_sky/model.safetensors bash shellscripts/train_predict.sh
#
# Hardware  GPUs; 10.5 GiB each without the average of the weights, measured on an H200 (docs/benchmarks.md)
# Time      2,000 epochs, as published (trainer.max_steps=N: fewer); on an H200 2 clips take .431 s without reading videos
# Result    runs/predict_sky: model.safetensors for sample_long.sh, previews, val losses in metrics.csv
#
# NPROC=8 uses 8 GPUs of this machine. For several machines, start the command below with torchrun or srun.
# Further arguments are passed to scripts/train.py: key=value, --name, --dry-run, --resume (see its --help).
source "$(dirname "${BASH_SOURCE[0]}")/help.bash"
: "${VIDEOS:?a folder that holds train/ and test/ with videos or folders of images}"
: "${AUTOENCODER:?model.safetensors of a trained autoencoder}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/train.py" "$root/configs/lvdm/predict_sky.yaml" "define.data=$VIDEOS" "codec_weights=$AUTOENCODER" "$@"
