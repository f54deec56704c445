"""Where masks come from, in training and in evaluation, and what is said when there are none."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from sb3_trpo_ext import MaskableTRPO
from sb3_trpo_ext.trpo import MaskFromInfo, masks
from tests.trpo.masked_cases import ACTIONS, SOURCES, Doors, InInfos, InObservations, WithMethod, policy_of, vec_env


def make(env, policy="MlpPolicy", **settings):
    return MaskableTRPO(policy, env, **{"n_steps": 16, "seed": 0, "device": "cpu", **settings})


# -------------------------------------------------------------------------------------------------- rows
FLAT = [1, 0, 0, 1, 1, 1, 0, 0, 1]
NESTED = [[1, 0], [0, 1, 1], [1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("given", "n"),
    [
        (FLAT, 1),
        ([FLAT], 1),
        (NESTED, 1),
        ([NESTED], 1),
        (np.array(FLAT, bool), 1),
        ([FLAT, FLAT], 2),
        ([NESTED, NESTED], 2),
        ((np.array(FLAT), np.array(FLAT)), 2),
    ],
)
def test_masks_of_every_form_become_rows(given, n):
    rows = masks.as_rows(given, ACTIONS["multi_discrete"], n)
    assert rows.dtype == bool
    np.testing.assert_array_equal(rows, np.array([FLAT] * n, dtype=bool))


def test_bits_may_be_pairs():
    pairs = [[[1, 0], [1, 1], [0, 1]]]
    np.testing.assert_array_equal(masks.as_rows(pairs, ACTIONS["multi_binary"], 1), [[1, 0, 1, 1, 0, 1]])


@pytest.mark.parametrize(
    ("given", "what"),
    [([1, 1, 0], "5 numbers each .* got 3"), ([[1] * 5] * 2, "got 10"), ([1, 2, 0, 0, 0], "got 2"), ([0.5] * 5, "0.5")],
)
def test_what_is_no_mask_is_refused_with_what_is_expected(given, what):
    with pytest.raises(ValueError, match=what):
        masks.as_rows(given, ACTIONS["discrete"], 1)


@pytest.mark.parametrize(
    ("action", "rows", "found"),
    [
        ("discrete", [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], 1),
        ("discrete", [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]], None),
        ("multi_discrete", [[1, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 1]], 1),
        ("multi_discrete", [[1, 0, 0, 0, 0, 1, 1, 1, 1]], 0),
        ("multi_binary", [[1, 0, 0, 1, 1, 1], [1, 1, 0, 0, 1, 1]], 1),
    ],
)
def test_each_choice_needs_an_option(action, rows, found):
    assert masks.forbidding_all(np.array(rows, bool), ACTIONS[action]) == found


# -------------------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_no_closed_door_is_tried_in_training(source, action):
    """The environments assert it; the masks that are learned from are those of the states."""
    env = vec_env(source, action)
    model = make(env, policy_of(source))
    model.learn(2 * 48)
    stored = model.rollout_buffer.observations
    seen = stored["seen"] if isinstance(stored, dict) else stored
    assert sum(one.unwrapped.tried for one in env.envs) == 96
    np.testing.assert_array_equal(model._masks.rollout, seen.astype(bool))


@pytest.mark.parametrize("source", ["method", "infos", "observations"])
def test_processes_of_their_own(source):
    kind = SOURCES[source]
    env = SubprocVecEnv([lambda: kind(length=5), lambda: kind(length=7)], start_method="fork")
    try:
        make(VecMonitor(env), policy_of(source)).learn(64)
    finally:
        env.close()


@pytest.mark.parametrize("source", ["method", "infos", "vec"])
def test_wrappers_of_the_vectorised_environment_are_looked_through(source):
    make(VecNormalize(VecMonitor(vec_env(source, "discrete")))).learn(96)


def test_going_on_and_another_environment():
    model = make(vec_env("infos", "discrete"))
    model.learn(48)
    model.learn(48, reset_num_timesteps=False)
    model.set_env(vec_env("method", "discrete"))
    model.learn(48)
    model.set_env(vec_env("infos", "discrete"))
    model.learn(48, reset_num_timesteps=False)
    assert model.num_timesteps == 96


def test_an_environment_without_masks_is_refused_and_can_be_trained_in_all_the_same():
    class Open(Doors):
        def step(self, action):
            return self._next(), 0.0, False, False, {}

    model = make(Open())
    with pytest.raises(ValueError, match=r"offers no action masks.*action_masks\(\).*ActionMasker.*use_masking=False"):
        model.learn(16)
    model.learn(16, use_masking=False)
    assert model._masks.rollout.all()


class Locked(WithMethod):
    def action_masks(self):
        return self.flat_mask if self.left > 3 else np.zeros(5, bool)


def test_a_mask_that_allows_nothing_is_named_with_environment_and_step():
    env = DummyVecEnv([lambda: WithMethod(length=8), lambda: Locked(length=8)])
    with pytest.raises(ValueError, match=r"environment 1 at step 5 of the rollout allows nothing"):
        make(env).learn(32)


def test_masks_that_vecnormalize_changed_are_refused():
    class Floats(InObservations):
        def __init__(self):
            super().__init__()
            mask = spaces.Box(0, 1, (5,), np.float32)
            self.observation_space = spaces.Dict({**self.observation_space.spaces, "action_mask": mask})

        def _next(self):
            return {key: part.astype(np.float32) for key, part in super()._next().items()}

    env = DummyVecEnv([Floats])
    make(env, "MultiInputPolicy").learn(16)
    with pytest.raises(ValueError, match="norm_obs_keys"):
        make(VecNormalize(env), "MultiInputPolicy").learn(16)
    make(VecNormalize(env, norm_obs_keys=["seen"]), "MultiInputPolicy").learn(16)


def test_infos_that_stop_telling_are_named():
    class Forgets(InInfos):
        def step(self, action):
            *rest, info = super().step(action)
            return *rest, info if self.left > 2 else {}

    with pytest.raises(ValueError, match=r'infos\["action_mask"\] of environment 0 is missing'):
        make(Forgets()).learn(16)


# -------------------------------------------------------------------------------------------------- evaluation
def trained(source="method", action="discrete"):
    return make(vec_env(source, action), policy_of(source)).learn(48)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("source", ["method", "ragged", "observations"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_sb3s_own_evaluation_tries_no_closed_door(source, action, deterministic):
    model, env = trained(source, action), Monitor(SOURCES[source](ACTIONS[action]))
    evaluate_policy(model, env, n_eval_episodes=5, deterministic=deterministic)
    several = VecMonitor(vec_env(source, action))
    evaluate_policy(model, several, n_eval_episodes=5, deterministic=deterministic)
    evaluate_policy(model.policy, several, n_eval_episodes=5)
    assert env.unwrapped.tried >= 40


def test_a_vectorised_environment_with_a_method_of_its_own_is_evaluated_in():
    evaluate_policy(trained("vec"), VecMonitor(vec_env("vec", "discrete")))


def test_an_environment_that_tells_in_infos_is_evaluated_in_with_a_wrapper():
    model = trained("infos")
    evaluate_policy(model, Monitor(MaskFromInfo(InInfos())))
    with pytest.raises(ValueError, match="MaskFromInfo"):
        evaluate_policy(model, Monitor(InInfos()))


def test_sb3s_callback_tries_no_closed_door(tmp_path):
    callback = EvalCallback(Monitor(WithMethod()), n_eval_episodes=3, eval_freq=16, log_path=str(tmp_path))
    make(vec_env("method", "discrete")).learn(96, callback=callback)
    assert callback.n_calls >= 32 and np.isfinite(callback.last_mean_reward)


def test_a_loop_of_ones_own():
    model, env = trained(), WithMethod()
    observation, _ = env.reset(seed=1)
    for _ in range(30):
        observation, _, over, _, _ = env.step(model.predict(observation)[0])
        if over:
            observation, _ = env.reset()
    assert env.tried == 30


def test_a_function_that_only_sees_observations():
    """The environment is that of whoever calls it."""
    model, env = trained(), WithMethod()

    def act(observation):
        return model.predict(observation, deterministic=True)[0]

    observation, _ = env.reset(seed=1)
    for _ in range(5):
        observation, *_ = env.step(act(observation))


def answer(model, observation):
    """A caller without any environment."""
    return model.predict(observation)


def test_without_any_masks_predict_says_what_to_do():
    model, observation = trained(), np.zeros(5, np.float32)
    with pytest.raises(ValueError, match=r"needs to know which actions are allowed.*Give action_masks="):
        answer(model, observation)
    action, _ = model.predict(observation, action_masks=[0, 0, 0, 1, 0])
    assert action == 3 and action.shape == ()
    actions, _ = model.predict(np.zeros((2, 5), np.float32), action_masks=[[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(actions, [3, 0])
    with pytest.raises(ValueError, match="allows nothing in state 0"):
        model.predict(observation, action_masks=[0] * 5)


def test_two_environments_that_disagree_are_no_answer():
    model, first, second = trained(), WithMethod(), WithMethod()
    observation, _ = first.reset(seed=1)
    second.reset(seed=1)
    model.predict(observation)  # they agree
    second.open = [~mask for mask in first.open]
    with pytest.raises(ValueError, match="finds 2 environments"):
        model.predict(observation)


def test_given_masks_come_before_those_of_the_environment():
    model, env = trained(), WithMethod()
    observation, _ = env.reset(seed=1)
    for option in range(5):
        assert model.predict(observation, action_masks=np.arange(5) == option)[0] == option


def test_environments_of_other_actions_are_not_asked():
    class Other(gym.Env):
        action_space, observation_space = spaces.Discrete(2), spaces.Box(0, 1, (5,))

        def action_masks(self):
            raise AssertionError("not this one")

    model, env, other = trained(), WithMethod(), Other()
    observation, _ = env.reset(seed=1)
    assert env.open[0][model.predict(observation)[0]] and other.action_space.n == 2
