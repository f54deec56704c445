"""Where masks come from, in training and in evaluation, and what is said when there are none."""

import weakref

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from sb3_trpo_ext import MaskableTRPO, RecurrentTRPO
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
    with pytest.raises(ValueError, match="mask of state 0 allows nothing"):
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


class Steps(BaseCallback):
    """Evaluates in an environment of its own while another is trained in."""

    def __init__(self, env):
        super().__init__()
        self.eval_env = env

    def _on_step(self):
        observation, _ = self.eval_env.reset()
        self.eval_env.step(self.model.predict(observation)[0])
        return True


@pytest.mark.parametrize("kind", [MaskableTRPO, RecurrentTRPO])
def test_an_object_of_ones_own_is_asked_for_its_environment(kind):
    """Not for the one farther out, which is trained in."""
    policy = "MlpPolicy" if kind is MaskableTRPO else "MlpLstmPolicy"
    env = WithMethod()
    kind(policy, WithMethod(), n_steps=16, seed=0, device="cpu").learn(32, callback=Steps(env))
    assert env.tried == 32


@pytest.mark.parametrize("kind", [MaskableTRPO, RecurrentTRPO])
def test_evaluation_where_masks_were_forgotten_is_an_error(kind):
    policy = "MlpPolicy" if kind is MaskableTRPO else "MlpLstmPolicy"
    model = kind(policy, WithMethod(), n_steps=16, seed=0, device="cpu")
    with pytest.raises(ValueError, match="finds no environment that says so"):
        model.learn(32, callback=EvalCallback(Monitor(Doors()), eval_freq=8))
    with pytest.raises(ValueError, match="finds no environment that says so"):
        evaluate_policy(model, Monitor(Doors()))


class Anything(Doors):
    def step(self, action):
        self.left -= 1
        return self._next(), 0.0, self.left == 0, False, {}


def test_what_was_trained_without_masks_is_evaluated_without(tmp_path):
    model = make(Anything()).learn(16, use_masking=False)
    evaluate_policy(model, Monitor(Anything()))
    model.save(tmp_path / "model")
    evaluate_policy(MaskableTRPO.load(tmp_path / "model"), Monitor(Anything()))
    model.set_env(WithMethod())
    model.learn(16)
    with pytest.raises(ValueError, match="finds no environment that says so"):
        evaluate_policy(model, Monitor(Anything()))


def test_masks_of_infos_are_followed_while_nothing_is_forbidden():
    class Lenient(InInfos):
        strict = False

        def step(self, action):
            if not self.strict:
                self.open = [np.ones(size, bool) for size in self.sizes]
            return super().step(action)

    env = Lenient(length=40)
    model = make(env).learn(16, use_masking=False)
    env.strict = True
    model.learn(32, reset_num_timesteps=False)


def test_unrelated_variables_do_no_harm():
    class Odd(gym.Env):
        """Without spaces."""

    model, env, odd = trained(), WithMethod(), Odd()
    gone = weakref.proxy(Doors())
    observation, _ = env.reset(seed=1)
    assert env.open[0][model.predict(observation)[0]] and odd is not None and type(gone)


def test_masks_that_lie_the_other_way_round_are_refused():
    with pytest.raises(ValueError, match="5 numbers each"):
        masks.as_rows(np.ones((5, 3), bool), ACTIONS["discrete"], 3)


def test_a_vectorised_environment_may_use_its_memory_again():
    class Reuses(DummyVecEnv):
        shared = np.zeros((2, 5), bool)

        def action_masks(self):
            self.shared[:] = [env.unwrapped.flat_mask for env in self.envs]
            return self.shared

    model = make(Reuses([lambda: Doors(length=5), lambda: Doors(length=7)])).learn(32)
    np.testing.assert_array_equal(model._masks.rollout, model.rollout_buffer.observations.astype(bool))


def test_training_without_masks_is_for_one_call():
    model = make(WithMethod())
    with pytest.raises(AssertionError, match="a closed door"):
        model.learn(64, use_masking=False)
    model.learn(32)
    assert not model._masks.rollout.all()
