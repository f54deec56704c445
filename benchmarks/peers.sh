#!/bin/sh
# The peers of benchmarks/mujoco.jsonl: a million steps of six tasks.
#
#   benchmarks/peers.sh FILE [JOBS]
#
# "trpo" and "ppo" are sb3-contrib's TRPO and Stable-Baselines3's PPO with RL Zoo's settings. "trpo-our-settings" separates the algorithm from
# its settings: sb3-contrib's TRPO with ours as far as it takes them. It has no schedule of the KL, so that it gets the mean over training, and
# no entropy cost; it averages the KL over the action's dimensions, so that our numbers are divided by those; VecNormalize stands in the place
# of the normalisation in the policy.
# Finished runs are not run again. Fifteen hours of one core.
set -e
file=${1:?file for the results}
jobs=${2:-1}

learn() {
    python -m sb3_trpo_ext.bench learn --timesteps 1000000 --jobs "$jobs" --out "$file" "$@"
}
ours() {
    tasks=$1
    shift
    learn --envs $tasks --algos trpo --defaults --label trpo-our-settings --seeds 0 1 --params "$@"
}

learn --suite mujoco --algos trpo
ours "HalfCheetah-v4 Ant-v4 Walker2d-v4" "normalize:dict(norm_reward=False)" gae_lambda:0.8 target_kl:0.01 "policy_kwargs:dict(log_std_init=-1)"
ours Hopper-v4 normalize:True n_envs:2 n_steps:1024 gamma:0.995 gae_lambda:0.95 target_kl:0.01 n_critic_updates:20 learning_rate:lin_1e-3 \
    "policy_kwargs:dict(log_std_init=0)"
ours Humanoid-v4 normalize:True n_envs:8 n_steps:256 gae_lambda:0.8 target_kl:0.011 n_critic_updates:8 learning_rate:lin_1e-3
ours Swimmer-v4 normalize:True n_envs:2 n_steps:1024 gamma:0.9999 gae_lambda:0.995 target_kl:0.01 cg_max_steps:25 n_critic_updates:20
learn --suite mujoco --algos ppo --seeds 0 1
