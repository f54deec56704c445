#!/bin/sh
# What each part of ACER does: the constructor's defaults with eight environments, with one thing changed at a time.
#
#   benchmarks/acer_ablation.sh FILE [JOBS]     then     python -m sb3_trpo_ext.bench report --results FILE --baseline shipped
#
# Finished runs are not run again. An hour of one core.
set -e
file=${1:?file for the results}
jobs=${2:-1}

# task ENVIRONMENT STEPS LABEL [SETTINGS]: trains three seeds.
task() {
    environment=$1 steps=$2 label=$3
    shift 3
    python -m sb3_trpo_ext.bench learn --suite replay --envs "$environment" --timesteps "$steps" --algos acer \
        --defaults --seeds 0 1 2 --jobs "$jobs" --out "$file" --label "$label" --params n_envs:8 "$@"
}

variant() {
    task CartPole-v1 50000 "$@"
    task LunarLander-v3 200000 "$@"
    task MinAtar/Breakout-v1 200000 "$@"
}

variant shipped
variant no-replay replay_ratio:0
variant replay-1 replay_ratio:1
variant replay-8 replay_ratio:8
variant no-trust-region trust_region:False
variant trust-region-euclidean trust_region_metric:euclidean
variant no-correction bias_correction:False
variant clip-1 importance_clip:1.0
variant clip-5 importance_clip:5.0
variant returns-raw normalize_returns:False
