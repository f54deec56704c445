#!/bin/sh
# Makes every report of docs/ again, tables and pictures, from the stored runs. A minute of one core.
#
#   benchmarks/reports.sh
set -e
cd "$(dirname "$0")/.."

report() {
    folder=$1
    shift
    python -m sb3_trpo_ext.bench report "$@" --out "docs/$folder"
}

report learning --results benchmarks/mujoco.jsonl --labels trpo_ext-no-settings trpo_ext trpo ppo --suite mujoco
report learning-v5 --results benchmarks/mujoco-v5.jsonl --labels trpo_ext --suite mujoco-v5
report memory --results benchmarks/memory.jsonl --labels trpo_lstm trpo_ext-without-memory ppo_lstm --baseline ppo_lstm --suite memory
report small-tasks --results benchmarks/classic.jsonl
report defaults --results benchmarks/defaults.jsonl --baseline contrib-defaults
report ablation --results benchmarks/ablation.jsonl --baseline shipped
report acer --results benchmarks/replay.jsonl --suite replay --baseline a2c-default
report acer-ablation --results benchmarks/acer_ablation.jsonl --baseline shipped
