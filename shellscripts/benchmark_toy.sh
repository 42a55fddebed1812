#!/usr/bin/env bash
# Compares ways to sample long videos on the toy: hierarchical or not, noise on given keys, guidance, one joint model or two.
#
#   bash shellscripts/quickstart.sh && bash shellscripts/benchmark_toy.sh
#
# Hardware  2 CPU cores, no GPU; needs the results of quickstart.sh
# Time      three trainings, two of them half as long, and ten times eight videos of 1,000 frames; not measured as a whole
# Result    runs/quickstart/benchmark.md, the table of docs/benchmarks.md, and the same as JSON next to it
#
# QUICKSTART=/path   the results of quickstart.sh (default: runs/quickstart of this repository)
# STEPS=N            steps to train (default: those of the joint model); separate models get half each, the autoregressive one all
# NUM=8 FRAMES=1000  videos of each variant and their length
# Noise of .05, .1 and .2 is that fraction of an unshifted cosine schedule: levels 10, 27 and 59 of the toy's, shifted by 3.
# Further arguments are passed to the three trainings (key=value).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

made="${QUICKSTART:-$root/runs/quickstart}" num="${NUM:-8}" frames="${FRAMES:-1000}"
[ -f "$made/joint/model.safetensors" ] || fail "no joint/model.safetensors in $made: run quickstart.sh first, or set QUICKSTART"
read_steps='import json, sys; print(json.load(open(sys.argv[1]))["steps"])'
steps="${STEPS:-$("$python" -c "$read_steps" "$made/joint/report.json")}"
joint="$made/joint/model.safetensors"

train() { # NAME CONFIG STEPS [key=value ...]: kept when it is complete
    local name="$1" config="$2" steps="$3"
    shift 3
    [ ! -f "$made/benchmark/$name/report.json" ] || return 0
    say "training $name, $steps steps"
    "$python" "$root/scripts/train.py" "$root/configs/lvdm/$config" --name "$name" --json "$made/benchmark/$name/report.json" \
        "out=$made/benchmark" "define.latents=$made/latents" "codec_weights=$made/autoencoder/model.safetensors" \
        "trainer.max_steps=$steps" "trainer.val_check_interval=$steps" "$@" >&2
}

model() { echo "$made/benchmark/$1/model.safetensors"; }

train predict predict_toy.yaml "$((steps / 2))" "$@"
train infill infill_toy.yaml "$((steps / 2))" "$@"
train autoregressive predict_toy.yaml "$steps" model.params.tasks.{short,predict}.params.stride=1 sampling.key_stride=1 "$@"

way() { printf '%s\n' --variant "$1" lead_in=96 "${@:2}"; } # "NAME" key=value ...: one row of the table
mapfile -t ways < <(
    way "joint model, noise .1, guidance 0" condition_noise=27 guidance=0
    way "separate models" condition_noise=27 "predict=$(model predict)" "infill=$(model infill)"
    way "plain autoregressive" condition_noise=27 "predict=$(model autoregressive)" infill=none
    way "noise 0" condition_noise=0
    way "noise .05" condition_noise=10
    way "noise .2" condition_noise=59
    way "guidance .1" condition_noise=27 guidance=0.1
    way "guidance .3" condition_noise=27 guidance=0.3
    way "DPM-Solver++ in place of DDIM with eta 1" condition_noise=27 sampler=dpmpp
    way "no lead-in" condition_noise=27 lead_in=0
)
"$python" "$root/scripts/compare_long.py" --predict "$joint" --infill "$joint" --num "$num" --frames "$frames" --dtype bfloat16 \
    --json "$made/benchmark.json" --out "$made/benchmark.md" "${ways[@]}"
say "tables: $made/benchmark.md"
