#!/usr/bin/env bash
# Trains LVDM's video autoencoder (factor 4 in time, 8 in space, 19.4 M parameters) on 256x256 videos.
#
#   VIDEOS=/path/to/sky_timelapse bash shellscripts/train_autoencoder.sh
#
# Hardware  GPUs with 12.7 GiB each, as --dry-run estimates (docs/autoencoder.md); torchvision's VGG16 file is downloaded once
# Time      1,000 epochs, as published (trainer.max_steps=N ends it earlier); not measured with LPIPS and the adversary
# Result    runs/autoencoder_sky: model.safetensors; val/psnr of reconstruction in metrics.csv
#
# NPROC=8 uses 8 GPUs of this machine. For several machines, start the command below with torchrun or srun.
# Further arguments are passed to scripts/train.py: key=value, --name, --dry-run, --resume (see its --help).
source "$(dirname "${BASH_SOURCE[0]}")/help.bash"
: "${VIDEOS:?a folder that holds train/ and test/ with videos or folders of images}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/train.py" "$root/configs/lvdm/autoencoder_sky.yaml" "define.data=$VIDEOS" "$@"
