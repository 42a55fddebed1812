#!/usr/bin/env bash
# Compares ways to make long videos on the toy: hierarchical or not, noise on given keys, guidance, one joint model or two.
#
#   bash shellscripts/quickstart.sh && bash shellscripts/benchmark_toy.sh
#
# Hardware  2 CPU cores, no GPU; needs what quickstart.sh made
# Time      about 35 minutes on 2 cores: three trainings and ten times eight videos of 1,000 frames
# Result    runs/quickstart/benchmark.md, the tables of docs/benchmarks.md, and the same as JSON beside it
#
# QUICKSTART=/path   where quickstart.sh put its results (default: runs/quickstart of this repository)
# STEPS=3600         steps of the joint model there: the separate models share as many, half each; the autoregressive one has all
# NUM=8 FRAMES=1000  videos of each variant and their length
# Noise of .05, .1 and .2 is that fraction of an unshifted cosine schedule: levels 10, 27 and 59 of the toy's, shifted by 3.
# What follows goes on to the three trainings (key=value).
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

made="${QUICKSTART:-$root/runs/quickstart}" num="${NUM:-8}" frames="${FRAMES:-1000}"
[ -f "$made/joint/model.safetensors" ] || fail "$made holds no joint/model.safetensors: run quickstart.sh first, or set QUICKSTART"
steps="${STEPS:-$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["steps"])' "$made/joint/report.json")}"
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

train predict predict_toy.yaml "$((steps / 2))" "$@"
train infill infill_toy.yaml "$((steps / 2))" "$@"
train autoregressive predict_toy.yaml "$steps" model.params.tasks.{short,predict}.params.stride=1 sampling.key_stride=1 "$@"

"$python" "$root/scripts/compare_long.py" --predict "$joint" --infill "$joint" --num "$num" --frames "$frames" --dtype bfloat16 \
    --json "$made/benchmark.json" --out "$made/benchmark.md" \
    --variant "joint, hierarchical" \
    --variant "separate models, hierarchical" "predict=$made/benchmark/predict/model.safetensors" "infill=$made/benchmark/infill/model.safetensors" \
    --variant "autoregressive" "predict=$made/benchmark/autoregressive/model.safetensors" infill=none \
    --variant "noise 0" condition_noise=0 \
    --variant "noise .05" condition_noise=10 \
    --variant "noise .1" condition_noise=27 \
    --variant "noise .2" condition_noise=59 \
    --variant "guidance 0" guidance=0 \
    --variant "guidance .1" guidance=0.1 \
    --variant "guidance .3" guidance=0.3
say "tables: $made/benchmark.md"
