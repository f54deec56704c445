#!/bin/sh
# Where replay pays: ACER, ACER without replay, and three algorithms that have none, on the suite "replay".
#
#   benchmarks/replay.sh FILE [JOBS]     then     python -m sb3_trpo_ext.bench report --results FILE --suite replay --baseline a2c-default
#
# The constructors' defaults, with as many environments as each is used with: TRPO and PPO one, A2C and ACER eight.
# Finished runs are not run again. Four hours of one core.
set -e
file=${1:?file for the results}
jobs=${2:-1}

# column ALGORITHM LABEL ENVIRONMENTS SEEDS TASKS [SETTINGS]
column() {
    python -m sb3_trpo_ext.bench learn --suite replay --algos "$1" --label "$2" --defaults --seeds $4 --envs $5 \
        --jobs "$jobs" --out "$file" --params n_envs:"$3" $6
}

small="Catch-v0 CartPole-v1 LunarLander-v3"
games="MinAtar/Asterix-v1 MinAtar/Breakout-v1 MinAtar/Freeway-v1 MinAtar/Seaquest-v1 MinAtar/SpaceInvaders-v1"
all() {
    column acer acer-default 8 "$1" "$2"
    column acer acer-without-replay 8 "$1" "$2" replay_ratio:0
    column trpo_ext trpo_ext-default 1 "$1" "$2"
    column a2c a2c-default 8 "$1" "$2"
    column ppo ppo-default 1 "$1" "$2"
}
all "0 1 2" "$games"
all "0 1 2 3 4" "$small"
