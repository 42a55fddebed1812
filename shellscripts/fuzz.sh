#!/usr/bin/env bash
# Tries damaged and hostile inputs on every command: configs, model files, checkpoints, videos, tables, tar members.
#
#   bash shellscripts/fuzz.sh                     runs until it is interrupted (Ctrl-C prints the figures)
#   bash shellscripts/fuzz.sh --minutes 30        runs that long, with a random seed, which it prints
#   bash shellscripts/fuzz.sh --examples 20       runs about 20 inputs of each family once; the tests do this with --seed 1
#   bash shellscripts/fuzz.sh --again runs/fuzz/failures/NAME/case.json    repeats one saved input, with its traceback
#
# Hardware  Linux, 1 CPU core, 12 GB of memory, no GPU
# Time      as requested; about 10 inputs a second
# Result    the number of inputs of each family and "0 kinds of failure", exit status 0. A failure is an error that is not one
#           sentence with status 2, too much time, or something that no file may cause: foreign code, a program, a socket, or a
#           file outside the run's folder. runs/fuzz/figures.json has the figures. runs/fuzz/failures has the smallest input of
#           each kind.
# shellcheck source=setup.sh
LVDM_EXTRAS=test source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export PYTHONPATH="$root/tests:$PYTHONPATH"
exec "$python" -m fuzz "$@"
