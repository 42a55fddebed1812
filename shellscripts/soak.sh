#!/usr/bin/env bash
# Harms runs and compares their results with an unharmed twin. Random SIGKILLs hit training (autoencoder with adversary, joint
# model with evaluation, joint model from cached clips), encoding, sampling (short, long) and evaluation. A full disk, too little
# memory, and the death of one of two processes hit runs that have a checkpoint.
#
#   bash shellscripts/soak.sh                          runs 100 kills and 5 tries of each other harm
#   bash shellscripts/soak.sh --kills 6 --others 1     runs the tiny version, which the tests run with --seed 1
#   bash shellscripts/soak.sh --kind joint --again 123 repeats one try by its own seed, which a failure names
#
# Hardware  Linux, 2 CPU cores, 4 GB of memory, no GPU. The full disk is a small tmpfs for
#           root, else a limit on the size of files.
# Time      about 5 seconds for each kill, 10 for each other harm
# Result    "0 failures" and exit status 0: the same weights, optimizers, metrics.csv, latents, videos and scores as the twin's,
#           to the bit. runs/soak/figures.json has tries, harms, and for each failure its seed and what differed.
# shellcheck source=setup.sh
LVDM_EXTRAS=test source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export PYTHONPATH="$root/tests:$PYTHONPATH" OMP_NUM_THREADS=1
exec "$python" -m soak "$@"
