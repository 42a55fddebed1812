#!/usr/bin/env bash
# Tries damaged and hostile inputs on every command: configs, model files, checkpoints, videos, tables, tar members.
#
#   bash shellscripts/fuzz.sh                     until it is interrupted (Ctrl-C prints the figures)
#   bash shellscripts/fuzz.sh --minutes 30        that long, with a random seed, which it prints
#   bash shellscripts/fuzz.sh --examples 20       about 20 inputs of each family, once; tests do this with --seed 1
#   bash shellscripts/fuzz.sh --again runs/fuzz/failures/NAME/case.json    one saved input, with its traceback
#
# Hardware  Linux, 1 CPU core, 12 GB of memory, no GPU
# Time      as given; about 10 inputs a second
# Result    the number of inputs of each family and "0 kinds of failure", exit status 0. A failure is an error that is not one
#           sentence with status 2, too much time, or what no file may cause: code that runs, a program, a socket, a file outside
#           the run's folder. runs/fuzz/figures.json has the figures, runs/fuzz/failures the smallest input of each kind.
# shellcheck source=setup.sh
LVDM_EXTRAS=test source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export PYTHONPATH="$root/tests:$PYTHONPATH"
exec "$python" -m fuzz "$@"
