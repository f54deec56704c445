"""Does it learn? Thresholds on fixed seeds, and side by side with sb3-contrib."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from torch.nn.utils import parameters_to_vector

from sb3_trpo_ext import TRPO


@dataclass(frozen=True)
class Task:
    """
    :param environment: its id
    :param n_envs: that run together
    :param untrained: about what a policy that knows nothing gets
    :param settings: of both algorithms; actions have one dimension, so that target_kl means the same to both
    """

    environment: str
    n_envs: int
    untrained: float
    settings: dict[str, Any] = field(default_factory=dict)

    def score(self, algorithm: type, steps: int, seed: int, episodes: int = 20) -> float:
        """Train, and return the mean return of the deterministic policy in fresh environments."""
        environment = make_vec_env(self.environment, self.n_envs, seed=seed)
        model = algorithm("MlpPolicy", environment, seed=seed, device="cpu", **self.settings).learn(steps)
        fresh = make_vec_env(self.environment, 4, seed=1000 + seed)
        return float(evaluate_policy(model, fresh, n_eval_episodes=episodes)[0])


CARTPOLE = Task("CartPole-v1", 1, 20, {"n_steps": 512})
PENDULUM = Task(
    "Pendulum-v1",
    4,
    -1200,
    {"n_steps": 256, "gamma": 0.9, "target_kl": 0.02, "cg_damping": 0.05},
)


# "Not clearly worse": of what sb3-contrib has learned, ours must have learned three quarters.
@pytest.mark.slow
@pytest.mark.parametrize(
    "task, steps, threshold",
    [(CARTPOLE, 16_384, 300), (PENDULUM, 40_960, -600)],
    ids=["CartPole", "Pendulum"],
)
def test_learns_side_by_side_with_sb3_contrib(task, steps, threshold):
    ours, contribs = (task.score(algorithm, steps, seed=0) for algorithm in (TRPO, ContribTRPO))
    assert ours > threshold
    assert ours - task.untrained > 0.75 * (contribs - task.untrained)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cartpole_is_solved(seed):
    assert CARTPOLE.score(TRPO, 65_536, seed) == 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_pendulum_is_solved(seed):
    assert PENDULUM.score(TRPO, 163_840, seed, episodes=50) > -250


@pytest.mark.slow
@pytest.mark.parametrize("task, steps", [(CARTPOLE, 24_576), (PENDULUM, 65_536)], ids=["CartPole", "Pendulum"])
def test_no_worse_than_sb3_contrib_over_seeds(task, steps):
    ours, contribs = (
        fmean(task.score(algorithm, steps, seed) for seed in range(5)) for algorithm in (TRPO, ContribTRPO)
    )
    assert ours - task.untrained > 0.9 * (contribs - task.untrained)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_unit_of_the_rewards_does_not_matter(env_id, bits):
    def learnt(scale, updates=4):
        environment = gym.wrappers.TransformReward(gym.make(env_id), lambda reward: scale * reward)
        model = TRPO("MlpPolicy", environment, n_steps=512, seed=0, device="cpu").learn(updates * 512)
        return parameters_to_vector(model.actor.parameters)

    expected = learnt(1.0)
    for power in (2.0**-13, 2.0**13):  # which no rounding sees
        assert bits(learnt(power)) == bits(expected)
    for scale in (1e-4, 1e4):  # rounding grows from update to update
        torch.testing.assert_close(learnt(scale, updates=2), learnt(1.0, updates=2), rtol=1e-3, atol=1e-4)


class Turns(gym.Env):
    """Four phases that follow one another, each with an action of its own that is best."""

    observation_space, action_space = gym.spaces.Box(0, 1, (4,)), gym.spaces.Box(-5, 5, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._phase(), {}

    def step(self, action):
        reward = -((float(action[0]) - (1, -2, 3, -1)[self.t % 4]) ** 2)
        self.t += 1
        return self._phase(), reward, False, self.t >= 64, {}

    def _phase(self):
        return np.eye(4, dtype=np.float32)[self.t % 4]


@pytest.mark.parametrize("settings", [{}, {"curvature_sampling_factor": 2}, {"sub_sampling_factor": 2}], ids=str)
def test_learns_all_phases_of_what_comes_back_every_fourth_step(settings):
    """Of every second state the policy would get to know two phases: about 0.45 is then lost in a step."""
    model = TRPO("MlpPolicy", Turns(), seed=0, **settings).learn(40_960)
    assert evaluate_policy(model, model.get_env(), 2)[0] / 64 > -0.05
