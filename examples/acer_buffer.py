"""
ACER with its replay buffer saved and loaded, so that training goes on with all that was stored::

    python examples/acer_buffer.py --timesteps 50000

It writes acer.zip and acer_buffer.npz into the present folder.
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo_ext import ACER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=50_000, help="before saving, and again after loading")
    timesteps = parser.parse_args().timesteps

    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = ACER("MlpPolicy", env, seed=0)
    model.learn(timesteps)
    print(f"Saved after {model.num_timesteps} steps, {len(model.replay_buffer)} of them in the buffer")
    # Two files: the model's has networks and settings, not the buffer, which may be large.
    model.save("acer.zip")
    model.save_replay_buffer("acer_buffer.npz")

    model = ACER.load("acer.zip", env=env)
    print(f"Loaded the model: {len(model.replay_buffer)} steps in the buffer")
    # Without the next line the buffer would fill anew, and replay would begin after the first 1000 steps.
    model.load_replay_buffer("acer_buffer.npz")
    print(f"Loaded the buffer: {len(model.replay_buffer)} steps in the buffer")
    model.learn(timesteps, reset_num_timesteps=False)
    print(f"Went on to {model.num_timesteps} steps")

    mean, deviation = evaluate_policy(model, make_vec_env("CartPole-v1", seed=1000), n_eval_episodes=20)
    print(f"Return: {mean:.1f} ± {deviation:.1f}")


if __name__ == "__main__":
    main()
