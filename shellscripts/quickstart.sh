#!/usr/bin/env bash
# The whole path on a toy: videos, autoencoder, cached latents, one joint diffusion model, 1,000-frame videos, their scores.
#
#   bash shellscripts/quickstart.sh
#
# Hardware  2 CPU cores, no GPU (if there is one, it is used)
# Time      about 11 minutes on 2 cores (at most 12) without the first installation; --minutes is most of it
# Result    runs/quickstart: model files, four 1,000-frame videos, their contact sheet and their scores
#
#   --minutes N   minutes of training (default 8): more minutes give more steps, and each training stops at its share of them
#   --out DIR     the folder of all results (default: runs/quickstart in this repository)
#   --seed K      the seed of data, weights and videos (default 0)
#   --fresh       runs every stage again; without it, complete stages are kept
#   --tiny        the same path in a minute, with separate predict and infill models too; the videos are noise (for tests)
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

minutes=8 out="$root/runs/quickstart" seed=0 fresh="" tiny=""
while [ $# -gt 0 ]; do
    case "$1" in
        --minutes | --out | --seed)
            [ $# -gt 1 ] || fail "$1 needs a value; see --help"
            printf -v "${1#--}" '%s' "$2"
            shift
            ;;
        --fresh) fresh=1 ;;
        --tiny) tiny=1 ;;
        *) fail "quickstart.sh does not know $1; see --help" ;;
    esac
    shift
done
[[ "$minutes" =~ ^[0-9]*\.?[0-9]+$ ]] || fail "--minutes is $minutes, expected a number such as 10"
[[ "$seed" =~ ^[0-9]+$ ]] || fail "--seed is $seed, expected a whole number"
mkdir -p "$out" 2>/dev/null || fail "$out cannot be made: choose another folder with --out DIR"
out="$(cd "$out" && pwd)"

# ---- how long, how large --------------------------------------------------------------------------------------------------

halves() { awk -v minutes="$minutes" "BEGIN { print 1 + int(minutes * $1 * $2 / 2) }"; } # of the steps: then it validates
share() { awk -v minutes="$minutes" "BEGIN { printf \"%.3f\", minutes * $1 }"; }

autoencoder=("max_minutes=$(share 0.18)") autoencoder_half="$(halves 0.18 850)" # 850 and 420 steps a minute are for a
joint=("max_minutes=$(share 0.82)") joint_half="$(halves 0.82 420)"             # faster machine: 2 cores stop at the cap
toy=(--videos 512 --frames 160) codec=() num=4 long=1000
if [ -n "$tiny" ]; then
    toy=(--videos 8 --val 2 --frames 160) num=2 long=200
    codec=("codec.params.autoencoder.params.channels=[8,16]")
    autoencoder+=(data.params.batch_size=2 previews.num=1) autoencoder_half=1
    joint+=(data.params.batch_size=2 previews.num=1 previews.steps=2) joint_half=1
    joint+=("model.params.denoiser.params.channel_mult=[1,1]")
fi
autoencoder+=("${codec[@]/#/model.params.}")
autoencoder+=("trainer.max_steps=$((2 * autoencoder_half))" "trainer.val_check_interval=$autoencoder_half")
joint+=("${codec[@]/#/model.params.}")
joint+=("trainer.max_steps=$((2 * joint_half))" "trainer.val_check_interval=$joint_half")
latents=("codec_weights=$out/autoencoder/model.safetensors" "define.latents=$out/latents")

# ---- stages ---------------------------------------------------------------------------------------------------------------

marks="$out/.stages"
history=""
summary=()
[ -z "$fresh" ] || rm -rf "$marks"
mkdir -p "$marks" "$out/logs"

stage() { # NAME "what it does" COMMAND...; makes $out/NAME; kept where this command is complete, and so were those before
    local name="$1" what="$2" start=$SECONDS
    shift 2
    history="$(printf '%s\n' "$history" "$@" | sha256sum | cut -c1-32)"
    if [ "$(cat "$marks/$name" 2>/dev/null)" = "$history done" ]; then
        summary+=("$(printf '%7s   %s' kept "$what")")
        return
    fi
    say "$what"
    if [ "$(cat "$marks/$name" 2>/dev/null)" != "$history begun" ]; then # begun by the same command: it goes on
        rm -rf "${out:?}/$name"
        echo "$history begun" >"$marks/$name"
    fi
    "$python" "$@" | tee "$out/logs/$name.txt"
    echo "$history done" >"$marks/$name"
    summary+=("$(printf '%5d s   %s' "$((SECONDS - start))" "$what")")
}

train() { # NAME "what it does" CONFIG [key=value ...]
    local name="$1" what="$2" config="$3"
    shift 3
    stage "$name" "$what" "$root/scripts/train.py" --name "$name" --json "$out/$name/report.json" \
        "$root/configs/lvdm/$config" "out=$out" "seed=$seed" "$@"
}

long_videos() { # NAME PREDICT INFILL: 1,000-frame videos, their contact sheet and their scores
    stage "$1" "$num videos of $long frames" "$root/scripts/sample_long.py" --predict "$out/$2/model.safetensors" \
        --infill "$out/$3/model.safetensors" --frames "$long" --num "$num" --dtype bfloat16 --seed "$seed" \
        --contact-sheet --overwrite --out "$out/$1" --json "$out/$1/report.json"
    stage "$1-scores" "scores of these videos" "$root/scripts/score_toy.py" "$out/$1" --kind discs --out "$out/$1-scores" \
        --json "$out/$1-scores/scores.json"
}

began=$SECONDS
stage discs "toy videos" "$root/scripts/make_toy.py" "$out/discs" --kind discs "${toy[@]}" --seed "$seed"
train autoencoder "video autoencoder" autoencoder_toy.yaml "define.data=$out/discs" "${autoencoder[@]}"
stage latents "latents of all videos" "$root/scripts/encode.py" "$root/configs/lvdm/encode_toy.yaml" "${codec[@]}" \
    "define.data=$out/discs" "codec_weights=$out/autoencoder/model.safetensors" "out=$out/latents"
train joint "joint diffusion model" joint_toy.yaml "${latents[@]}" "${joint[@]}"
long_videos videos joint joint
if [ -n "$tiny" ]; then
    train predict "separate model of keys" predict_toy.yaml "${latents[@]}" "${joint[@]}"
    train infill "separate model of gaps" infill_toy.yaml "${latents[@]}" "${joint[@]}"
    long_videos separate predict infill
fi

printf '\n%s\n' "seconds   stage"
printf '%s\n' "${summary[@]}" "$(printf '%5d s   all' "$((SECONDS - began))")"
printf '\n%s\n' "$(cat "$out/logs/videos-scores.txt")"
cat <<TEXT

videos         $out/videos
contact sheet  $out/videos/seed$seed-contact-sheet.png
scores         $out/videos-scores/curves.png, curves.csv, scores.json
models         $out/autoencoder/model.safetensors, $out/joint/model.safetensors
TEXT
