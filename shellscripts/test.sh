#!/usr/bin/env bash
# Sets lvdm up and runs every test.
#
#   bash shellscripts/test.sh                        all
#   bash shellscripts/test.sh tests/test_setup.py    what pytest is told
#
# Hardware  2 CPU cores, no GPU
# Time      about 10 minutes on 2 cores, the first installation apart
# Result    pytest's closing line; exit status 0 when all passed
LVDM_EXTRAS=test source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

cores="$(nproc)"
export OMP_NUM_THREADS=1 # the tests share the cores by processes
cd "$root"
exec "$python" -m pytest -n "$((cores < 8 ? cores : 8))" --dist loadfile "$@"
