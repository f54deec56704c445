"""Stepping through environments beside SB3's own loop, in all that the loop touches."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext.common.collection import step_through
from sb3_trpo_ext.common.ranks import ALONE
from sb3_trpo_ext.common.sampler import PolicySampler
from tests.cases import SMALL

STEPS, ENVS = 16, 2
VECTOR, BOX = spaces.Box(-1, 1, (3,)), spaces.Box(-0.5, 0.5, (2,))
DICT = spaces.Dict(vector=VECTOR, number=spaces.Discrete(3))
CASES = {
    "box": ("MlpPolicy", VECTOR, BOX, {}),
    "matrix": ("MlpPolicy", spaces.Box(-1, 1, (2, 3)), spaces.Box(-0.5, 0.5, (2, 2)), {}),
    "discrete": ("MlpPolicy", spaces.Discrete(4), spaces.Discrete(3), {}),
    "multi_discrete": ("MlpPolicy", VECTOR, spaces.MultiDiscrete([3, 2]), {}),
    "multi_binary": ("MlpPolicy", VECTOR, spaces.MultiBinary(3), {}),
    "dict": ("MultiInputPolicy", DICT, BOX, {}),
    "gsde": ("MlpPolicy", VECTOR, BOX, {"use_sde": True, "sde_sample_freq": 3}),
    "squashed": ("MlpPolicy", VECTOR, BOX, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
}


class Watcher(BaseCallback):
    """Notes all that a callback is shown, and ends training when it is told to."""

    def __init__(self, last=None):
        super().__init__()
        self.last, self.events, self.steps = last, [], []

    def _on_rollout_start(self):
        self.events.append("start")

    def _on_step(self):
        self.events.append("step")
        shown = ("n_steps", "actions", "clipped_actions", "new_obs", "rewards", "dones", "infos")
        self.steps.append({name: deepcopy(self.locals[name]) for name in shown if name in self.locals})
        self.steps[-1]["count"] = self.model.num_timesteps
        return self.n_calls != self.last

    def _on_rollout_end(self):
        self.events.append("end")


@pytest.fixture
def ready(space_env):
    """A model of SB3's at the beginning of its first rollout, and a callback that watches it."""

    def make(case, last=None):
        policy, observations, actions, settings = CASES[case]
        lengths = (5, 7)  # of the episodes, which time limits end
        environment = DummyVecEnv([lambda n=n: Monitor(space_env(observations, actions, n)) for n in lengths])
        settings = {"policy_kwargs": dict(SMALL[policy])} | settings
        model = A2C(policy, environment, n_steps=STEPS, seed=0, device="cpu", **settings)
        model._ranks = ALONE
        model._follow_policy = lambda: None  # SB3's own asks its policy afresh at every step
        _, callback = model._setup_learn(STEPS * ENVS, Watcher(last))
        return model, callback

    return make


def by_sb3(model, callback):
    torch.manual_seed(1)
    return OnPolicyAlgorithm.collect_rollouts(model, model.env, callback, model.rollout_buffer, STEPS)


class Acts:
    """As the policy does; notes time limits, and for which steps it is asked to evaluate what it did."""

    def __init__(self, model):
        self.model, self.timeouts, self.asked, self.samplers = model, [], [], 0

    def sampler(self, steps):
        self.samplers += 1
        return PolicySampler(self.model.policy, ENVS, None)

    def note_timeout(self, timeout):
        self.timeouts.append(timeout)

    def evaluate(self, steps):
        self.asked.append((steps.start, steps.stop, self.model.policy.action_net.bias.tolist()))


def by_us(model, callback):
    torch.manual_seed(1)
    model.policy.set_training_mode(False)
    if model.use_sde:
        model.policy.reset_noise(ENVS)
    behaviour = Acts(model)
    going_on = step_through(model, behaviour, model.env, callback, model.rollout_buffer)
    for step, env, observation in behaviour.timeouts:  # which SB3 does as it goes
        with torch.no_grad():
            value = model.policy.predict_values(model.policy.obs_to_tensor(observation)[0])
        model.rollout_buffer.rewards[step, env] += model.gamma * float(value)
    return going_on, behaviour


def state_of(model):
    """All that a rollout advances but values and probabilities."""
    buffer = model.rollout_buffer
    episodes = [(info["r"], info["l"]) for info in model.ep_info_buffer]
    arrays = {name: getattr(buffer, name) for name in ("observations", "actions", "rewards", "episode_starts")}
    rest = {"last": model._last_obs, "starts": model._last_episode_starts, "episodes": np.array(episodes)}
    return arrays | rest | {"counts": np.array([model.num_timesteps])}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, dict):
            assert_same(ours[name], value)
        elif name != "infos":
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_same_trajectory_counters_and_callbacks_as_sb3s_loop(case, ready):
    (ours, our_callback), (theirs, their_callback) = ready(case), ready(case)
    going_on, _ = by_us(ours, our_callback)
    assert by_sb3(theirs, their_callback) and going_on
    assert ours.rollout_buffer.full and ours.rollout_buffer.pos == STEPS == theirs.rollout_buffer.pos
    assert_same(state_of(ours), state_of(theirs))
    assert len(ours.ep_info_buffer) == 3 + 2
    assert our_callback.events == ["start", *["step"] * STEPS]  # the end is the caller's to say
    assert their_callback.events == [*our_callback.events, "end"]
    for our_step, their_step in zip(our_callback.steps, their_callback.steps, strict=True):
        assert_same(our_step, their_step)


# Number of the step that is the last → episodes that are counted, of 5 and of 7 steps.
@pytest.mark.parametrize(("last", "episodes"), [(1, 0), (5, 0), (6, 1), (7, 1), (8, 2), (15, 4), (STEPS, 5)])
def test_a_step_at_which_training_is_ended_counts_as_in_sb3(last, episodes, ready):
    """Its time is counted, an episode that ends with it is not, and it is in no buffer."""
    (ours, our_callback), (theirs, their_callback) = ready("box", last), ready("box", last)
    assert not by_us(ours, our_callback)[0] and not by_sb3(theirs, their_callback)
    assert_same(state_of(ours), state_of(theirs))
    assert (len(ours.ep_info_buffer), ours.num_timesteps) == (episodes, ENVS * last)
    assert our_callback.events == their_callback.events == ["start", *["step"] * last]
    assert not ours.rollout_buffer.full


def test_time_limits_are_told_with_step_environment_and_last_observation(ready):
    model, callback = ready("dict")
    timeouts = by_us(model, callback)[1].timeouts
    assert [(step, env) for step, env, _ in timeouts] == [(4, 0), (6, 1), (9, 0), (13, 1), (14, 0)]
    for step, env, observation in timeouts:
        expected = callback.steps[step]["infos"][env]["terminal_observation"]
        for key, part in expected.items():
            np.testing.assert_array_equal(observation[key], part)
        assert not np.array_equal(observation["vector"], callback.steps[step]["new_obs"]["vector"][env])


def test_environments_get_box_actions_within_their_bounds_and_the_buffer_what_was_drawn(ready):
    model, callback = ready("box")
    by_us(model, callback)
    drawn = model.rollout_buffer.actions
    assert float(np.abs(drawn).max()) > 0.5, "the example must not be trivial"
    given = np.stack([step["clipped_actions"] for step in callback.steps])
    np.testing.assert_array_equal(given, drawn.clip(-0.5, 0.5))


def test_what_was_done_is_evaluated_once_with_the_policy_that_did_it(ready):
    model, callback = ready("box")
    _, behaviour = by_us(model, callback)
    assert behaviour.asked == [(0, STEPS, model.policy.action_net.bias.tolist())] and behaviour.samplers == 1


def test_a_policy_that_a_callback_writes_to_acts_at_once_and_what_was_done_is_evaluated_with_the_old(ready):
    """With SB3's loop as the yardstick for what is done."""
    runs = []
    for collect in (by_us, by_sb3):
        model, callback = ready("box")
        on_step = callback._on_step

        def writing(model=model, callback=callback, on_step=on_step):
            if callback.n_calls == 6:
                with torch.no_grad():
                    model.policy.action_net.bias.add_(0.25)
            return on_step()

        callback._on_step = writing
        before = model.policy.action_net.bias.tolist()
        runs.append((model, before, collect(model, callback)))
    (ours, before, (_, behaviour)), (theirs, _, _) = runs
    np.testing.assert_allclose(ours.rollout_buffer.actions, theirs.rollout_buffer.actions, rtol=1e-5, atol=1e-6)
    after = ours.policy.action_net.bias.tolist()
    assert after == pytest.approx([bias + 0.25 for bias in before])
    assert behaviour.asked == [(0, 6, before), (6, STEPS, after)] and behaviour.samplers == 2
