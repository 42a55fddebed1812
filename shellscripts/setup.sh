#!/usr/bin/env bash
# Creates or reuses the virtual environment .venv at the top of the repository and installs lvdm there (editable).
#
#   bash shellscripts/setup.sh
#
# Hardware  Linux with Python 3.10 or newer; the first time also about 8 GB of disk and a network
# Time      minutes the first time (PyTorch is large), afterwards well under a second and without a network
# Result    .venv, and pip's output in .venv/install.log
#
# PYTHON=/path/to/python       creates the environment with this Python
# VENV=/path                   creates or reuses this environment instead of .venv
# LVDM_PYTHON=/path/to/python  uses this Python as it is: nothing is created or installed
# LVDM_EXTRAS=test             also installs the tools of the tests
#
# The other scripts source this file, which sets $root and $python and defines `launch`.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/help.bash"

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"
[[ "$venv" = /* ]] || venv="$PWD/$venv"
log="$venv/install.log"
stamp="$venv/.lvdm-installed"
extras="${LVDM_EXTRAS:-}"

say() { printf 'lvdm: %s\n' "$*" >&2; }
fail() { say "$@"; exit 2; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }
version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

find_python() { # prints one that is new enough and can make virtual environments
    local candidate version old="" bare="" candidates=(python3 python3.14 python3.13 python3.12 python3.11 python3.10)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        version="$(version_of "$candidate")" || continue # a name on PATH may still be a shim that runs nothing
        if ! is_new_enough "$candidate"; then
            old="${old:-$candidate is $version}"
        elif ! "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            bare="${bare:-$candidate ($version)}"
        else
            echo "$candidate"
            return
        fi
    done
    local other="name another with PYTHON=/path/to/python"
    [ -z "$bare" ] || fail "$bare has no venv module: install it (Debian, Ubuntu: apt install python3-venv) or $other"
    [ -z "$old" ] || fail "$old, but 3.10 or newer is needed: install one or $other"
    fail "no Python found (tried ${PYTHON:-python3, python3.10 to python3.14}): install 3.10 or newer or $other"
}

fingerprint() { # of all that decides what is installed, and of where this checkout lies
    { cat "$root/requirements.txt" "$root/setup.py" "$root/pyproject.toml"; echo "$root"; } | sha256sum | cut -c1-32
}

is_installed() {
    [ "$(cat "$stamp${extras:+-$extras}" 2>/dev/null)" = "$(fingerprint)" ] && is_new_enough "$venv/bin/python"
}

check_disk() { # before anything is made
    local folder="$venv" need=8 free
    while [ ! -d "$folder" ]; do folder="$(dirname "$folder")"; done
    if compgen -G "$venv/lib/python*/site-packages/torch/version.py" >/dev/null; then need=1; fi
    free="$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1000000)}')" || return 0
    [ -z "$free" ] || [ "$free" -ge "$need" ] ||
        fail "$folder has $free GB free, but about $need GB are needed: free some or install elsewhere with VENV=/path"
}

make_venv() { # reuses what works, completes or remakes what was interrupted, leaves alone what is not ours
    local base
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        is_new_enough "$venv/bin/python" ||
            fail "$venv has Python $(version_of "$venv/bin/python"), but 3.10 or newer is needed: remove it or choose VENV=/path"
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >>"$log" 2>&1 || true
        if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
    fi
    [ -e "$venv/.lvdm-made" ] || [ -e "$venv/pyvenv.cfg" ] ||
        fail "$venv is there and is no virtual environment: choose another folder with VENV=/path"
    base="$(find_python)"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name '.lvdm-*' ! -name install.log -exec rm -rf {} +
    "$base" -m venv "$venv" >>"$log" 2>&1 || fail "$base could not make a virtual environment in $venv (see $log)"
}

show_progress() { # pip's output to one line on a terminal
    local line
    while IFS= read -r line; do
        case "$line" in
            Collecting* | *Downloading* | Installing*) [ ! -t 2 ] || printf '\r\033[K%.100s' "${line%% (from*}" >&2 ;;
        esac
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
}

pip_install() {
    "$venv/bin/python" -m pip install --no-input --disable-pip-version-check -e "$root${extras:+[$extras]}" 2>&1 |
        tee "$log" | show_progress
}

explain_pip() { # its failure in one sentence
    if grep -qiE 'no space left|disk quota exceeded' "$log"; then
        fail "the disk filled up while installing: free about 8 GB and start again (see $log)"
    elif grep -qiE 'name resolution|NewConnection|Max retries|unreachable|refused|timed out|ProxyError|SSLError' "$log"; then
        fail "the package index cannot be reached: check the network or proxy and start again (see $log)"
    fi
    fail "pip could not install lvdm: $(grep -E '^ *(ERROR|error)' "$log" | tail -n 1) (see $log)"
}

install() ( # one set-up at a time; those that waited find the work done
    check_disk
    [ -x "$venv/bin/python" ] || find_python >/dev/null
    mkdir -p "$venv" 2>/dev/null || fail "$venv cannot be made: choose a folder you may write to with VENV=/path"
    [ -w "$venv" ] || fail "$venv cannot be written to: choose another folder with VENV=/path"
    [ -n "$(ls -A "$venv")" ] || touch "$venv/.lvdm-made"
    if command -v flock >/dev/null; then
        exec 9>"$venv/.lvdm-lock"
        flock -n 9 || { say "another set-up works on $venv: waiting for it" && flock 9; }
    fi
    if is_installed; then return; fi
    : >"$log"
    make_venv
    say "installing into $venv (minutes the first time; what pip says: $log)"
    pip_install || explain_pip
    fingerprint >"$stamp"
    [ -z "$extras" ] || fingerprint >"$stamp-$extras"
)

launch() { # a script of ours in one process, or with NPROC=n in n processes of this machine
    if [ "${NPROC:-1}" -gt 1 ]; then
        exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$NPROC" "$@"
    fi
    exec "$python" "$@"
}

if [ -n "${LVDM_PYTHON:-}" ]; then
    is_new_enough "$LVDM_PYTHON" || fail "LVDM_PYTHON=$LVDM_PYTHON is no Python of 3.10 or newer"
    python="$LVDM_PYTHON"
else
    is_installed || install
    python="$venv/bin/python"
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    [ $# = 0 ] || fail "setup.sh takes no arguments (it got: $*); its settings are listed at its top"
    say "ready: $python"
fi
