#!/bin/sh
# What each setting does: the shipped settings of two tasks after 300 000 steps, with one thing changed at a time.
#
#   benchmarks/ablation.sh FOLDER [JOBS]     then     python -m sb3_trpo_ext.bench report --results FOLDER --baseline shipped
#
# Finished runs are not run again. One to two minutes for each of 6 runs in 21 rows, three to four hours of one core.
set -e
folder=${1:?folder for the results}
jobs=${2:-1}

# variant TASKS LABEL SETTINGS: trains three seeds.
variant() {
    tasks=$1
    label=$2
    shift 2
    # shellcheck disable=SC2086  # several tasks
    python -m sb3_trpo_ext.bench learn --envs $tasks --timesteps 300000 --algos trpo_ext \
        --seeds 0 1 2 --jobs "$jobs" --out "$folder" --label "$label" --params "$@"
}

cheetah=HalfCheetah-v4
walker=Walker2d-v4
both="$cheetah $walker"

variant "$both" shipped n_envs:2 # as it is anyway
variant $cheetah kl-constant target_kl:0.24
variant $walker kl-constant target_kl:0.12
variant $cheetah kl-half target_kl:lin_0.12
variant $walker kl-half target_kl:lin_0.06
variant $cheetah kl-double target_kl:lin_0.48
variant $walker kl-double target_kl:lin_0.24
variant "$both" critic-rate-constant learning_rate:1e-3
variant $cheetah std-1 "policy_kwargs:'dict(log_std_init=0)'"
variant $walker std-0.14 "policy_kwargs:'dict(log_std_init=-2)'"
variant $walker entropy-free ent_coef:0.0
variant $cheetah entropy-priced ent_coef:-0.005
variant $cheetah large-last-layer "policy_kwargs:'dict(log_std_init=-2, ortho_init=False)'"
variant $walker large-last-layer "policy_kwargs:'dict(log_std_init=0, ortho_init=False)'"
variant "$both" observations-raw "normalize:'dict(norm_obs=False)'"
variant "$both" rewards-raw "normalize:'dict(norm_reward=False)'"
variant "$both" critic-in-trust-region critic:trust_region n_critic_updates:5
variant "$both" critic-5-passes n_critic_updates:5
variant "$both" critic-40-passes n_critic_updates:40
variant "$both" curvature-thinned curvature_sampling_factor:10
variant "$both" cg-5-steps cg_max_steps:5
variant "$both" cg-30-steps cg_max_steps:30
variant "$both" damping-tenth cg_damping:0.06
variant "$both" damping-tenfold cg_damping:6.0
variant "$both" damping-adaptive adaptive_damping:True
variant $cheetah horizon-long gamma:0.99 gae_lambda:0.95
variant $walker horizon-short gamma:0.98 gae_lambda:0.9
variant "$both" four-rollouts rollouts_per_update:4 n_steps:256 n_critic_updates:5
