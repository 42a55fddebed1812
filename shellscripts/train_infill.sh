#!/usr/bin/env bash
# Trains LVDM's model of the gaps between keys (20 frames, both ends given, 549.2 M parameters).
#
#   VIDEOS=/path/to/sky_timelapse AUTOENCODER=runs/autoencoder_sky/model.safetensors bash shellscripts/train_infill.sh
#
# Hardware  GPUs; their memory is not measured here (--dry-run estimates it)
# Time      2,000 epochs, as published; the time is not measured here (trainer.max_steps=N ends it earlier)
# Result    runs/infill_sky: model.safetensors for sample_long.sh, previews, val losses in metrics.csv
#
# NPROC=8 uses 8 GPUs of this machine. For several machines, start the command below with torchrun or srun.
# Further arguments are passed to scripts/train.py: key=value, --name, --dry-run, --resume (see its --help).
source "$(dirname "${BASH_SOURCE[0]}")/help.bash"
: "${VIDEOS:?a folder that holds train/ and test/ with videos or folders of images}"
: "${AUTOENCODER:?model.safetensors of a trained autoencoder}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

launch "$root/scripts/train.py" "$root/configs/lvdm/infill_sky.yaml" "define.data=$VIDEOS" "codec_weights=$AUTOENCODER" "$@"
