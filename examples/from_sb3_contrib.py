"""
A model of sb3-contrib's TRPO goes on training here::

    python examples/from_sb3_contrib.py --timesteps 10000

It writes contrib.zip into the present folder.
"""

import argparse

import sb3_contrib
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_trpo_ext import TRPO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=10_000, help="of sb3-contrib's TRPO, and again of ours")
    timesteps = parser.parse_args().timesteps
    test = make_vec_env("CartPole-v1")

    def report(name: str, model: OnPolicyAlgorithm) -> None:
        test.seed(1000)  # the same episodes for all
        mean, deviation = evaluate_policy(model, test, n_eval_episodes=10)
        print(f"{name}, {model.num_timesteps} steps: {mean:.1f} ± {deviation:.1f}")

    theirs = sb3_contrib.TRPO("MlpPolicy", "CartPole-v1", seed=0)
    theirs.learn(timesteps)
    theirs.save("contrib.zip")
    report("sb3-contrib's", theirs)

    # The file's settings keep the meaning that they had: the KL is a mean over action dimensions, the critic is
    # fitted by Adam, and observations are not normalised. Settings named here replace those of the file:
    # TRPO.load(..., kl_reduction="sum", target_kl=0.02).
    model = TRPO.load("contrib.zip", env=make_vec_env("CartPole-v1", seed=0))
    print(f"Loaded with kl_reduction={model.kl_reduction}, critic={model.critic}, target_kl={model.target_kl}")
    report("Ours as loaded", model)

    model.learn(timesteps, reset_num_timesteps=False)  # counts on from sb3-contrib's steps
    report("Ours", model)


if __name__ == "__main__":
    main()
