"""What all algorithms have in common, on a small one that moves its policy by hand."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_trpo_ext.common.algorithm import Algorithm
from sb3_trpo_ext.common.collection import step_through
from sb3_trpo_ext.common.sampler import PolicySampler
from sb3_trpo_ext.common.settings import Rule, number

NAN = float("nan")
N_STEPS = 8


@dataclass(frozen=True)
class Rewards:
    """All that this algorithm looks at."""

    observations: torch.Tensor
    rewards: torch.Tensor

    def not_finite(self):
        return [name for name, tensor in vars(self).items() if not bool(tensor.isfinite().all())]


class Acts:
    """As the policy does, and nothing is to be said of it afterwards."""

    def __init__(self, policy, n_envs):
        self._policy, self._n_envs = policy, n_envs

    def sampler(self, steps):
        return PolicySampler(self._policy, self._n_envs, None)

    def note_timeout(self, timeout):
        pass

    def evaluate(self, steps):
        pass


class Shift(Algorithm[Rewards]):
    """Adds the mean reward to the bias of the actor's last layer."""

    RULES = (Rule("step_size", number(0), "a number >= 0", "0.1 is usual."),)
    OWN_SETTING = "step_size"
    policy_aliases = {"MlpPolicy": ActorCriticPolicy}  # noqa: RUF012

    def __init__(self, policy, env, step_size=0.1, learning_rate=1e-3, _init_setup_model=True, **settings):
        fixed = {"gae_lambda": 1.0, "ent_coef": 0.0, "vf_coef": 0.0, "max_grad_norm": 0.0}
        fixed |= {"use_sde": False, "sde_sample_freq": -1, "gamma": 0.9, "n_steps": N_STEPS}
        super().__init__(policy, env, learning_rate, **(fixed | settings), _init_setup_model=False)
        self.step_size = step_size
        if _init_setup_model:
            self._setup_model()

    def _build(self):
        self.seen = []  # the mode of the policy in each improvement

    def _attach(self):
        self.attached = [*getattr(self, "attached", []), self.policy.training]  # its mode each time

    def _collect(self, env, callback, rollout_buffer):
        self.policy.set_training_mode(False)
        if not step_through(self, Acts(self.policy, env.num_envs), env, callback, rollout_buffer):
            return False
        callback.on_rollout_end()
        return True

    def _rollout(self):
        buffer = self.rollout_buffer
        return Rewards(torch.from_numpy(buffer.observations.copy()), torch.from_numpy(buffer.rewards.copy()))

    def _improve(self, rollout):
        self.seen.append(self.policy.training)
        mean = rollout.rewards.mean()
        with torch.no_grad():
            self.policy.action_net.bias += self.step_size * mean
        return ({"train/mean_reward": float(mean)},)

    def _run_over(self, rollout):
        self.policy.predict_values(self._observations_of(rollout))

    def _observations_of(self, rollout):
        return rollout.observations.flatten(0, 1)


@pytest.fixture
def shift(make_env):
    def make(env=None, **settings):
        defaults = {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [4]}}
        return Shift("MlpPolicy", make_env() if env is None else env, **(defaults | settings))

    return make


def logged(model):
    return dict(model.logger.name_to_value)


def test_iterations_are_collected_improved_counted_and_logged(shift):
    model = shift()
    bias, rewards = model.policy.action_net.bias.detach().clone(), []
    for i in range(1, 4):
        assert model.learn(N_STEPS, reset_num_timesteps=i == 1, log_interval=1000) is model
        rewards.append(float(model.rollout_buffer.rewards.mean()))
        values = logged(model)
        assert values["train/mean_reward"] == pytest.approx(rewards[-1])
        assert (values["train/n_updates"], values["train/skipped_updates"]) == (i, 0)
        assert values["time/rollout_seconds"] >= 0
    assert model.num_timesteps == 3 * N_STEPS
    torch.testing.assert_close(model.policy.action_net.bias.detach(), bias + 0.1 * sum(rewards))


def test_total_may_be_a_float_and_is_rounded_up_to_whole_rollouts(shift):
    assert shift().learn(2e1).num_timesteps == 3 * N_STEPS


def test_a_schedule_is_asked_about_the_progress_remaining_and_never_beyond_the_end(shift):
    """The learning rate is set before each improvement; the last rollout goes beyond the total of 20 steps."""
    asked = []

    def learning_rate(progress):
        asked.append(progress)
        return 0.5 * progress

    model = shift(learning_rate=learning_rate)
    asked.clear()
    model.learn(20)
    assert list(dict.fromkeys(asked)) == pytest.approx([1 - 8 / 20, 1 - 16 / 20, 0.0])
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
    assert logged(model)["train/learning_rate"] == 0.0


def test_a_learning_rate_may_be_given_in_words(shift):
    model = shift(learning_rate="lin_0.4")
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.4)
    assert model.learn(16).policy.optimizer.param_groups[0]["lr"] == 0.0


def test_improvements_see_the_policy_in_evaluation_mode_whatever_callbacks_do(shift):
    class Trains(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.policy.set_training_mode(True)

    model = shift().learn(3 * N_STEPS, Trains())
    assert model.seen == [False] * 3


def test_parts_are_made_for_a_policy_in_evaluation_mode_which_keeps_its_own(shift):
    model = shift()
    assert model.attached == [False] and model.policy.training


def test_parts_are_made_again_when_the_policy_is_another_and_only_then(shift):
    model = shift().learn(2 * N_STEPS)
    assert len(model.attached) == 1
    model.policy.value_net = nn.Linear(4, 1)
    model.learn(2 * N_STEPS)
    assert model.attached == [False] * 2
    model.policy.action_net.weight.requires_grad_(False)
    model.learn(N_STEPS)
    assert model.attached == [False] * 3


class Counted(BaseFeaturesExtractor):
    """Batch normalisation: its statistics move in training mode."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, observations):
        return self.norm(observations)


def test_layers_with_a_state_take_each_rollout_in_once(shift):
    model = shift(policy_kwargs={"net_arch": [4], "features_extractor_class": Counted})
    norm = model.policy.features_extractor.norm
    model.learn(N_STEPS)
    observations = torch.from_numpy(model.rollout_buffer.observations).flatten(0, 1)
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * observations.mean(dim=0))
    model.learn(2 * N_STEPS, reset_num_timesteps=False)
    assert int(norm.num_batches_tracked) == 3


def test_settings_are_checked_before_anything_is_built(shift):
    with pytest.raises(ValueError, match=r"Shift\(step_size=\.\.\.\) must be a number >= 0, got -1\. 0\.1 is usual\."):
        shift(step_size=-1)

    class Picky(Shift):
        def _check(self):
            assert not hasattr(self, "policy")
            raise ValueError("too large together")

    with pytest.raises(ValueError, match="too large together"):
        Picky("MlpPolicy", "CartPole-v1")


@pytest.mark.parametrize("part", ["observation", "reward"])
def test_a_rollout_with_bad_data_is_skipped_counted_and_named(part, shift, make_env, bits):
    model = shift(make_env((N_STEPS + 3, (part, NAN)))).learn(N_STEPS, log_interval=1000)
    before = bits(model.get_parameters())
    with pytest.warns(UserWarning, match=rf"Update skipped: the rollout holds NaN or infinity in its {part}s\. "):
        model.learn(N_STEPS, reset_num_timesteps=False, log_interval=1000)
    assert bits(model.get_parameters()) == before and len(model.seen) == 1
    assert (logged(model)["train/skipped_updates"], logged(model)["train/n_updates"]) == (1, 1)
    assert model.num_timesteps == 2 * N_STEPS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(N_STEPS, reset_num_timesteps=False, log_interval=1000)
    assert bits(model.get_parameters()) != before
    assert (logged(model)["train/skipped_updates"], logged(model)["train/n_updates"]) == (1, 2)


def test_running_statistics_are_those_before_a_skipped_rollout(shift, make_env, bits):
    environment = VecNormalize(DummyVecEnv([lambda: make_env((N_STEPS + 3, ("observation", NAN)))]))
    model = shift(environment).learn(N_STEPS)
    before = bits(vars(environment.obs_rms)), bits(vars(environment.ret_rms))
    with pytest.warns(UserWarning, match="Update skipped"):
        model.learn(N_STEPS, reset_num_timesteps=False)
    assert (bits(vars(environment.obs_rms)), bits(vars(environment.ret_rms))) == before
    original = environment.get_original_obs()
    np.testing.assert_array_equal(model._last_obs, environment.normalize_obs(original))
    assert np.isfinite(model._last_obs).all()


def test_a_callback_ends_training_without_an_improvement(shift):
    model = shift().learn(100, lambda variables, _: variables["self"].num_timesteps < 11)
    assert model.num_timesteps == 11 and len(model.seen) == 1


def test_what_was_kept_is_forgotten_when_training_begins_anew(shift, make_env):
    forgotten = []

    class Keeps(Shift):
        def _start_anew(self):
            forgotten.append(self.num_timesteps)

    model = Keeps("MlpPolicy", make_env(), device="cpu")
    model.learn(N_STEPS)
    model.learn(N_STEPS, reset_num_timesteps=False)
    assert len(forgotten) == 1
    model.set_env(DummyVecEnv([make_env]))
    model.learn(N_STEPS, reset_num_timesteps=False)
    assert len(forgotten) == 2
    model.learn(N_STEPS)
    assert len(forgotten) == 3


def test_saved_and_loaded_with_settings_counters_and_parameters(shift, make_env, bits, tmp_path):
    model = shift(make_env((3, ("reward", NAN))), step_size=0.25)
    with pytest.warns(UserWarning, match="Update skipped"):
        model.learn(3 * N_STEPS)
    model.save(tmp_path / "model")
    loaded = Shift.load(tmp_path / "model", env=make_env())
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    assert (loaded.step_size, loaded._n_updates, loaded._n_skipped_updates) == (0.25, 2, 1)
    loaded.learn(N_STEPS, reset_num_timesteps=False)
    assert logged(loaded)["train/n_updates"] == 3 and loaded.num_timesteps == 4 * N_STEPS
    assert Shift.load(tmp_path / "model", step_size=0.5).step_size == 0.5
    with pytest.raises(ValueError, match=r"Shift\(step_size=\.\.\.\) must be a number >= 0, got -1"):
        Shift.load(tmp_path / "model", step_size=-1)


def test_a_file_of_an_algorithm_without_the_own_setting_is_refused(shift, tmp_path):
    class Other(Shift):
        OWN_SETTING = "temperature"

    shift().save(tmp_path / "model")
    with pytest.raises(ValueError, match="saved by another algorithm than Other"):
        Other.load(tmp_path / "model")


def test_what_a_file_leaves_out_is_said_for_it_unless_the_caller_says_it(shift, tmp_path):
    class Renamed(Shift):
        @classmethod
        def _unsaid(cls, saved):
            return {"step_size": 2 * saved["step_size"]}

    shift(step_size=0.5).save(tmp_path / "model")
    assert Renamed.load(tmp_path / "model").step_size == 1.0
    assert Renamed.load(tmp_path / "model", step_size=3.0).step_size == 3.0


def test_parameters_are_made_usable_before_they_are_set(shift, make_env, tmp_path):
    class Doubled(Shift):
        def _usable(self, parameters):
            return parameters | {"policy": {name: 2 * tensor for name, tensor in parameters["policy"].items()}}

    model = shift(seed=1)
    model.save(tmp_path / "model")
    for source in (model.get_parameters(), str(tmp_path / "model")):
        doubled = Doubled("MlpPolicy", make_env(), policy_kwargs={"net_arch": [4]}, device="cpu")
        doubled.set_parameters(source, device="cpu")
        for one, other in zip(doubled.policy.parameters(), model.policy.parameters(), strict=True):
            assert torch.equal(one, 2 * other)


def test_what_derives_from_a_rollout_is_not_saved(shift):
    assert "_good_statistics" in shift()._excluded_save_params()


@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.MultiBinary(2)], ids=["discrete", "multi_binary"])
def test_same_seed_same_bits(actions, shift, make_env, bits):
    runs = [shift(make_env(actions=actions)).learn(2 * N_STEPS).get_parameters() for _ in range(2)]
    assert bits(runs[0]) == bits(runs[1])
