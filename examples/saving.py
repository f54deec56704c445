"""
Rewards normalised by VecNormalize, saved with the model; going on with training from the files; an evaluation::

    python examples/saving.py --timesteps 40000
    python examples/saving.py --timesteps 40000 --both

It writes model.zip and vec_normalize.pkl into the present folder.
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=40_000, help="before saving, and again after loading")
    parser.add_argument("--both", action="store_true", help="VecNormalize for observations too, not the policy")
    options = parser.parse_args()

    # The policy normalises observations itself, and its statistics are in model.zip. Where VecNormalize normalises them
    # the policy does not: nothing is normalised twice, and the statistics are in vec_normalize.pkl.
    # VecNormalize divides rewards by the deviation of discounted returns, so it needs the model's discount.
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=4, seed=0), norm_obs=options.both, gamma=0.9)
    model = TRPO("MlpPolicy", env, n_steps=512, gamma=0.9, seed=0)
    print(f"The policy normalises observations: {model.policy.normalizer is not None}")
    model.learn(options.timesteps)
    model.save("model.zip")
    env.save("vec_normalize.pkl")

    # Another day: the statistics go on from where they were, and so does the count of steps. With target_kl=None the
    # trust region starts at its full size in each call of learn, and shrinks again until its end.
    env = VecNormalize.load("vec_normalize.pkl", make_vec_env("Pendulum-v1", n_envs=4, seed=1))
    model = TRPO.load("model.zip", env=env)
    model.learn(options.timesteps, reset_num_timesteps=False)
    model.save("model.zip")
    env.save("vec_normalize.pkl")
    print(f"Trained for {model.num_timesteps} steps in all")

    # An evaluation wants rewards as they are, and statistics that stand still.
    test = VecNormalize.load("vec_normalize.pkl", make_vec_env("Pendulum-v1", seed=1000))
    test.training = test.norm_reward = False
    mean, deviation = evaluate_policy(TRPO.load("model.zip"), test, n_eval_episodes=20)
    print(f"Return: {mean:.1f} ± {deviation:.1f}")


if __name__ == "__main__":
    main()
