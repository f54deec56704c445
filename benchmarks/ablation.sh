#!/bin/sh
# What each setting does: the shipped settings of HalfCheetah-v4 after 300 000 steps, with one thing changed at a time.
#
#   benchmarks/ablation.sh FOLDER [JOBS]     then     python -m sb3_trpo_ext.bench report --results FOLDER --baseline shipped
#
# Finished runs are not run again. One to two minutes for each of 3 runs in 25 rows, an hour and a half of one core.
set -e
folder=${1:?folder for the results}
jobs=${2:-1}

# variant LABEL SETTINGS: trains three seeds.
variant() {
    label=$1
    shift
    python -m sb3_trpo_ext.bench learn --envs HalfCheetah-v4 --timesteps 300000 --algos trpo_ext \
        --seeds 0 1 2 --jobs "$jobs" --out "$folder" --label "$label" --params "$@"
}

variant shipped n_envs:2 # as it is anyway
variant kl-constant target_kl:0.24
variant kl-half target_kl:lin_0.12
variant kl-double target_kl:lin_0.48
variant critic-rate-constant learning_rate:1e-3
variant std-0.6 "policy_kwargs:'dict(log_std_init=-0.5)'"
variant std-1 "policy_kwargs:'dict(log_std_init=0)'"
variant entropy-priced ent_coef:-0.005
variant last-layer-1 "policy_kwargs:'dict(log_std_init=-2, last_layer_gain=1.0)'"
variant no-orthogonal-init "policy_kwargs:'dict(log_std_init=-2, ortho_init=False)'"
variant rate-constant-no-orthogonal-init learning_rate:1e-3 "policy_kwargs:'dict(log_std_init=-2, ortho_init=False)'"
variant relu "policy_kwargs:'dict(log_std_init=-2, activation_fn=nn.ReLU)'"
variant observations-raw "normalize:'dict(norm_obs=False)'"
variant rewards-raw "normalize:'dict(norm_reward=False)'"
variant critic-in-trust-region critic:trust_region
variant critic-5-passes n_critic_updates:5
variant critic-40-passes n_critic_updates:40
variant curvature-thinned curvature_sampling_factor:10
variant cg-5-steps cg_max_steps:5
variant cg-30-steps cg_max_steps:30
variant damping-tenth cg_damping:0.06
variant damping-tenfold cg_damping:6.0
variant damping-adaptive adaptive_damping:True
variant horizon-long gamma:0.99 gae_lambda:0.95
variant four-rollouts rollouts_per_update:4 n_steps:256 n_critic_updates:5
