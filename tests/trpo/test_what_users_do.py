"""
What users do to a model between and within its steps acts as in SB3's own loop, which is the yardstick here: the same
with ``fast=False``, where SB3 collects.
"""

import copy
import threading

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.trust_region import critic_fit, step
from sb3_trpo_ext.trust_region.policy_step import StepStatus

VECTOR = spaces.Box(-1, 1, (3,))
BOX, DISCRETE = spaces.Box(-1, 1, (2,)), spaces.Discrete(3)


# ------------------------------------------------------------------------------------------- writes in callbacks
def fill_log_std(policy):
    policy.log_std.data.fill_(-1.0)


def fill_log_std_without_data(policy):
    with torch.no_grad():
        policy.log_std.fill_(-1.0)


def shift_bias(policy):
    policy.action_net.bias.data.add_(0.5)


def new_tensor(policy):
    policy.action_net.weight.data = policy.action_net.weight.data + 0.3


def load(policy):
    policy.load_state_dict({name: 0.9 * value for name, value in policy.state_dict().items()})


def shift_value(policy):
    policy.value_net.bias.data.add_(3.0)


WRITES = [fill_log_std, fill_log_std_without_data, shift_bias, new_tensor, load, shift_value]
HOOKS = ["start", 1, 7, 15]  # of the rollout, or after the step of this number; there are 16


class Writer(BaseCallback):
    """Writes once, in the second rollout."""

    def __init__(self, write, when):
        super().__init__()
        self.write, self.when, self.rollouts, self.step = write, when, 0, 0

    def _on_rollout_start(self):
        self.rollouts, self.step = self.rollouts + 1, 0
        if self.when == "start" and self.rollouts == 2:
            self.write(self.model.policy)

    def _on_step(self):
        if self.step == self.when and self.rollouts == 2:
            self.write(self.model.policy)
        self.step += 1
        return True


ARRAYS = ("actions", "rewards", "values", "log_probs", "advantages", "returns")


def rollout_after(fast, write, when, env, tiny, **settings):
    model = tiny(env, fast=fast, critic="adam", target_kl=0.01, **settings)
    model.learn(2 * 16, Writer(write, when))
    return {name: np.array(getattr(model.rollout_buffer, name)) for name in ARRAYS}


@pytest.mark.parametrize("when", HOOKS)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_of_a_callback_acts_as_in_sb3s_loop(write, when, space_env, tiny):
    fast, slow = (rollout_after(fast, write, when, space_env(VECTOR, BOX, length=5), tiny) for fast in (True, False))
    for name in ARRAYS:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [{"policy_kwargs": {"activation_fn": nn.ELU}}, {"use_sde": True, "sde_sample_freq": 4}],
    ids=["elu", "gsde"],
)
@pytest.mark.parametrize("write", [shift_bias, shift_value])
def test_also_where_the_policy_itself_samples(write, settings, space_env, tiny):
    fast, slow = (rollout_after(fast, write, 7, space_env(VECTOR, BOX), tiny, **settings) for fast in (True, False))
    for name in ARRAYS:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_noise_that_is_set_when_a_rollout_starts_is_drawn_with(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), n_steps=256)
    model.learn(2 * 256, Writer(lambda policy: policy.log_std.data.fill_(-3.0), "start"))
    assert model.rollout_buffer.actions.std() < 0.1 and model.rollout_buffer.log_probs.min() > -5


# ------------------------------------------------------------------------------------------- exchanged parts
def parameters_of(policy):
    return [parameter.detach().clone() for parameter in policy.parameters()]


def changed(before, policy):
    return [not torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True)]


@pytest.mark.parametrize("critic", ["trust_region", "adam"])
@pytest.mark.parametrize("fast", [True, False])
def test_an_exchanged_policy_is_the_one_that_learns_acts_and_is_saved(critic, fast, space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, BOX), critic=critic, fast=fast).learn(32)
    left = model.policy
    model.policy = copy.deepcopy(left)
    old, before = parameters_of(left), parameters_of(model.policy)
    model.learn(48, reset_num_timesteps=False)
    assert all(changed(before, model.policy)) and not any(changed(old, left))
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model")
    assert not any(changed(parameters_of(model.policy), loaded.policy))
    buffer = model.rollout_buffer
    torch.testing.assert_close(
        model.actor.heads.policy.predict_values(torch.as_tensor(buffer.observations[:, 0])).flatten(),
        model.policy.predict_values(torch.as_tensor(buffer.observations[:, 0])).flatten(),
    )


def test_a_cloned_policy_of_sb3s_own_constructor_is_followed(space_env, tiny):
    """As behaviour cloning hands one over: an SB3 policy with its own optimizer over all parameters."""
    model = tiny(space_env(VECTOR, BOX))
    model.policy = ActorCriticPolicy(VECTOR, BOX, lambda _: 1e-3, net_arch=[8])
    before = parameters_of(model.policy)
    model.learn(32)
    assert all(changed(before, model.policy))
    assert model.logger.name_to_value["train/update_status"] == StepStatus.ACCEPTED.code


def test_an_exchanged_head_is_trained_and_acted_with(space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE)).learn(16)
    model.policy.action_net = nn.Linear(8, 3)
    with torch.no_grad():
        model.policy.action_net.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    before = parameters_of(model.policy.action_net)
    model.learn(16, reset_num_timesteps=False)
    assert (model.rollout_buffer.actions == 1).all()
    model.policy.action_net.bias.data.zero_()
    before = parameters_of(model.policy.action_net)
    model.learn(32, reset_num_timesteps=False)
    assert all(changed(before, model.policy.action_net))


@pytest.mark.parametrize("add", ["hook", "parametrization", "container_hook"])
def test_what_is_attached_later_is_not_passed_by(add, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX)).learn(16)
    assert model.actor.network is not None
    calls = []
    if add == "parametrization":
        torch.nn.utils.parametrizations.weight_norm(model.policy.action_net)
    else:
        module = model.policy.action_net if add == "hook" else model.policy.mlp_extractor.policy_net
        module.register_forward_hook(lambda *arguments: calls.append(1))
    model.learn(16, reset_num_timesteps=False)
    assert model.actor.network is None
    assert calls or add == "parametrization"
    assert model.logger.name_to_value["train/update_status"] == StepStatus.ACCEPTED.code


def test_the_critics_optimizer_keeps_its_memory_when_something_else_changes(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), critic="adam").learn(32)
    steps = {int(state["step"]) for state in model.policy.optimizer.state.values()}
    model.policy.log_std.requires_grad_(False)
    model.learn(16, reset_num_timesteps=False)
    assert {int(state["step"]) for state in model.policy.optimizer.state.values()} == {max(steps) * 3 // 2}


# ------------------------------------------------------------------------------------------- frozen parts
@pytest.mark.parametrize("critic", ["trust_region", "adam"])
@pytest.mark.parametrize("fast", [True, False])
def test_frozen_and_released_layers_are_honoured(critic, fast, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), critic=critic, fast=fast, policy_kwargs={"net_arch": [8, 8]}).learn(16)
    layers = [model.policy.mlp_extractor.policy_net[0], model.policy.mlp_extractor.value_net[0]]
    for layer in layers:
        layer.requires_grad_(False)
    before, rest = [parameters_of(layer) for layer in layers], parameters_of(model.policy.action_net)
    model.learn(32, reset_num_timesteps=False)
    assert not any(any(changed(old, layer)) for old, layer in zip(before, layers, strict=True))
    assert all(changed(rest, model.policy.action_net))
    for layer in layers:
        layer.requires_grad_(True)
    model.learn(32, reset_num_timesteps=False)
    assert all(all(changed(old, layer)) for old, layer in zip(before, layers, strict=True))


def actor_and_critic(policy):
    actor = [policy.log_std, *policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    return actor, [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()]


@pytest.mark.parametrize("frozen", ["actor", "critic", "both"])
@pytest.mark.parametrize("critic", ["trust_region", "adam"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_whole_side_may_be_frozen(frozen, critic, fast, space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, BOX), critic=critic, fast=fast)
    actor, values = actor_and_critic(model.policy)
    for parameter in [*(actor if frozen != "critic" else []), *(values if frozen != "actor" else [])]:
        parameter.requires_grad_(False)
    before = [one.detach().clone() for one in actor], [one.detach().clone() for one in values]
    model.learn(32)
    moved = [
        any(not torch.equal(a, b) for a, b in zip(side, old, strict=True))
        for side, old in zip((actor, values), before, strict=True)
    ]
    assert moved == [frozen == "critic", frozen == "actor"]
    values_logged = model.logger.name_to_value
    assert (values_logged["train/update_status"] == StepStatus.FROZEN.code) == (frozen != "critic")
    assert (values_logged["train/critic_steps"] == 0) == (frozen != "actor")
    without_a_step = {"train/improvement_ratio", "train/line_search_kl"}
    assert all(np.isfinite(value) for key, value in values_logged.items() if key not in without_a_step)
    model.save(tmp_path / "model")
    TRPO.load(tmp_path / "model", env=model.get_env()).learn(32)


# ------------------------------------------------------------------------------------------- odd containers
class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Odd(ActorCriticPolicy):
    kind = "residual"

    def _build_mlp_extractor(self):
        super()._build_mlp_extractor()
        for name in ("policy_net", "value_net"):
            net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
            if self.kind == "residual":
                net = Residual(*net)
            elif self.kind == "module":
                net = nn.ModuleDict({"inner": net})
                net.forward = net["inner"].forward
            elif self.kind == "hook":
                net.register_forward_hook(lambda module, inputs, output: 2 * output)
            elif self.kind == "own_forward":
                net.forward = lambda x, net=net: net[1](net[0](x)) + 1
            setattr(self.mlp_extractor, name, net)
        self.mlp_extractor.latent_dim_pi = self.mlp_extractor.latent_dim_vf = 3


@pytest.mark.parametrize("kind", ["residual", "module", "hook", "own_forward"])
def test_containers_are_taken_at_their_word(kind, space_env, tiny):
    policy = type("Policy", (Odd,), {"kind": kind})
    model = tiny(space_env(VECTOR, BOX), policy, policy_kwargs={})
    assert model.actor.network is None and model.value_function.network is None
    observations = torch.randn(5, 3)
    inputs = model.actor.heads.present(observations.numpy())
    torch.testing.assert_close(model.actor.family(inputs).mean, policy_mean(model.policy, observations))
    torch.testing.assert_close(model.value_function.values(inputs), model.policy.predict_values(observations))
    model.learn(16)
    assert model.logger.name_to_value["train/update_status"] == StepStatus.ACCEPTED.code


def policy_mean(policy, observations):
    return policy.get_distribution(observations).distribution.mean


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.ELU])
def test_activations_whose_output_does_not_tell_the_slope_go_through_autograd(activation, space_env, tiny):
    def negative():
        return activation(-0.5)

    model = tiny(space_env(VECTOR, BOX), policy_kwargs={"activation_fn": negative})
    assert model.actor.network is None
    assert tiny(space_env(VECTOR, BOX), policy_kwargs={"activation_fn": activation}).actor.network is not None


# ------------------------------------------------------------------------------------------- what callbacks see
class Locals(BaseCallback):
    def __init__(self):
        super().__init__()
        self.names, self.tensors = [], []

    def _on_step(self):
        self.names.append({"values", "log_probs"} & self.locals.keys())
        self.tensors.append(self.locals["obs_tensor"].clone())
        return True


def test_locals_are_right_or_absent(space_env, tiny):
    callback = Locals()
    model = tiny(space_env(VECTOR, BOX))
    model.learn(48, CallbackList([callback]))
    assert callback.names == [set()] * 48, "those of the last rollout would be stale"
    assert torch.equal(torch.cat(callback.tensors[-16:]), torch.as_tensor(model.rollout_buffer.observations[:, 0]))


def test_terminal_observations_whose_memory_is_used_again(space_env, tiny):
    """As vectorised simulators do. Values at time limits are those of the right states."""
    results = []
    for reuse in (True, False):
        model = tiny(space_env(VECTOR, BOX, length=4), n_steps=16)
        env, memory = model.get_env(), np.zeros(3, np.float32)
        original = env.step_wait

        def step_wait(original=original, reuse=reuse, memory=memory):
            result = original()
            for info in result[3]:
                if "terminal_observation" in info and reuse:
                    memory[:] = info["terminal_observation"]
                    info["terminal_observation"] = memory
            return result

        env.step_wait = step_wait
        model.learn(16)
        results.append(model.rollout_buffer.rewards.copy())
    np.testing.assert_array_equal(*results)


class Averaging(Logger):
    """As imitation's: whatever is recorded is averaged."""

    def record(self, key, value, exclude=None):
        self.record_mean(key, value, exclude)


def test_a_logger_that_averages_all_it_is_given(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX, bad={20: ("reward", np.nan)}))
    model.set_logger(Averaging(None, []))
    with pytest.warns(UserWarning, match="Update skipped"):
        model.learn(64)
    assert all(isinstance(value, (int, float)) for value in model.logger.name_to_value.values())


# ------------------------------------------------------------------------------------------- layers with a state
class Stateful(BaseFeaturesExtractor):
    def __init__(self, observation_space, kind="batch_norm"):
        super().__init__(observation_space, 5)
        linear = nn.Linear(3, 5)
        if kind == "batch_norm":
            self.layers = nn.Sequential(linear, nn.BatchNorm1d(5), nn.Tanh())
        else:
            with torch.no_grad():
                linear.weight.mul_(20)
            self.layers = nn.Sequential(nn.utils.parametrizations.spectral_norm(linear), nn.Tanh())

    def forward(self, observations):
        return self.layers(observations)


@pytest.mark.parametrize("critic", ["trust_region", "adam"])
@pytest.mark.parametrize("shared", [True, False])
def test_batch_norm_follows_the_observations_between_updates_only(critic, shared, space_env, tiny):
    settings = {"features_extractor_class": Stateful, "share_features_extractor": shared}
    model = tiny(space_env(VECTOR, BOX), critic=critic, n_steps=64, batch_size=16, policy_kwargs=settings)
    inputs, policy = torch.randn(64, 3), model.policy
    seen = {}

    def note(when):
        policy.set_training_mode(False)
        seen[when] = policy_mean(policy, inputs)

    improve, move = model._improve, model._move_statistics

    def watched_improve(rollout):
        result = improve(rollout)
        note("after the update")
        return result

    def watched_move(rollout):
        theta = parameters_of(policy)
        move(rollout)
        note("after the statistics moved")
        assert not any(changed(theta, policy))

    model._improve, model._move_statistics = watched_improve, watched_move
    theta_of_fit = []
    fit = model._fit_critic

    def watched_fit(batch):
        note("before the critic")
        result = fit(batch)
        note("after the critic")
        theta_of_fit.append(1)
        return result

    model._fit_critic = watched_fit
    model.learn(64)
    assert theta_of_fit and torch.equal(seen["before the critic"], seen["after the critic"])
    assert not torch.allclose(seen["after the update"], seen["after the statistics moved"])
    norm = policy.pi_features_extractor.layers[1]
    assert int(norm.num_batches_tracked) > 0 and not torch.allclose(norm.running_mean, torch.zeros(5), atol=1e-4)
    model.learn(64, reset_num_timesteps=False)  # the ratio at θ_old is 1 again: advantages have the mean 0
    assert abs(model.logger.name_to_value["train/policy_objective_before"]) < 1e-6


def test_spectral_norms_reach_one(space_env, tiny):
    settings = {
        "features_extractor_class": Stateful,
        "features_extractor_kwargs": {"kind": "spectral"},
        "share_features_extractor": False,
    }
    model = tiny(space_env(VECTOR, BOX), n_steps=64, batch_size=16, policy_kwargs=settings).learn(4 * 64)
    for extractor in (model.policy.pi_features_extractor, model.policy.vf_features_extractor):
        norm = float(torch.linalg.matrix_norm(extractor.layers[0].weight, 2))
        assert norm == pytest.approx(1, abs=0.05)


# ------------------------------------------------------------------------------------------- interruption, threads
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("part", ["policy", "critic"])
def test_an_interrupted_search_leaves_the_parameters_as_they_were(part, error, space_env, tiny, monkeypatch):
    model = tiny(space_env(VECTOR, BOX), critic="trust_region").learn(16)
    module = step if part == "policy" else critic_fit
    assign, calls = module.assign, []

    def interrupted(parameters, vector):
        assign(parameters, vector)
        calls.append(1)
        if len(calls) == 1:
            raise error("in the middle of a candidate")

    own = model.actor.parameters if part == "policy" else model.value_function.parameters
    before = [parameter.detach().clone() for parameter in own]
    monkeypatch.setattr(critic_fit, "meet_mean_and_spread", lambda critic, batch: None)  # a whole change, before
    monkeypatch.setattr(module, "assign", interrupted)
    with pytest.raises(error):
        model.learn(16, reset_num_timesteps=False)
    assert calls and all(torch.equal(old, new) for old, new in zip(before, own, strict=True))


def test_no_global_switch_is_touched_by_training_in_threads(space_env, tiny):
    default = torch.distributions.Distribution._validate_args
    seen = set()

    class Look(BaseCallback):
        def _on_step(self):
            seen.add(torch.distributions.Distribution._validate_args)
            return True

    models = [tiny(space_env(VECTOR, BOX), use_sde=True, fast=False) for _ in range(2)]
    threads = [threading.Thread(target=model.learn, args=(64, Look())) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {default} and torch.distributions.Distribution._validate_args == default


class RefusesNaN(ActorCriticPolicy):
    """A policy that asks torch's distributions, whose checks find candidates that are not finite."""

    def get_distribution(self, obs):
        return super().get_distribution(obs)


def test_a_candidate_that_torchs_checks_refuse_is_no_exception(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), RefusesNaN, policy_kwargs={"net_arch": [8]}, target_kl=1e30)
    model.line_search_max_iter = 3
    before = parameters_of(model.policy)[:1]
    model.learn(16)
    assert model.logger.name_to_value["train/update_status"] in (
        StepStatus.ACCEPTED.code,
        StepStatus.LINE_SEARCH_FAILED.code,
    )
    assert before and all(bool(torch.isfinite(one).all()) for one in model.policy.parameters())


def test_ppo_is_the_yardstick_for_exchanged_policies(space_env):
    """So that the test above asks for what SB3 does."""
    model = PPO("MlpPolicy", space_env(VECTOR, BOX), n_steps=16, batch_size=16, device="cpu")
    model.policy = copy.deepcopy(model.policy)
    before = parameters_of(model.policy)
    model.learn(48)
    assert all(changed(before, model.policy))


# ------------------------------------------------------------------------------- all of it, beside SB3's loop
def exchange_policy(model):
    model.policy = copy.deepcopy(model.policy)


def exchange_head(model):
    torch.manual_seed(3)
    model.policy.action_net = nn.Linear(8, 2)


def freeze_a_layer(model):
    model.policy.mlp_extractor.policy_net[0].requires_grad_(False)


def freeze_the_actor(model):
    for parameter in actor_and_critic(model.policy)[0]:
        parameter.requires_grad_(False)


def hook_on_a_layer(model):
    model.policy.action_net.register_forward_hook(lambda module, inputs, output: 1.5 * output)


def hook_on_a_container(model):
    model.policy.mlp_extractor.policy_net.register_forward_hook(lambda module, inputs, output: output + 0.5)


def hook_on_the_policy(model):
    model.policy.register_forward_hook(lambda module, inputs, output: (output[0] * 0.5, *output[1:]))


def parametrize(model):
    torch.nn.utils.parametrizations.weight_norm(model.policy.action_net)


def residual(model):
    model.policy.mlp_extractor.policy_net = Residual(nn.Linear(3, 3), nn.Tanh())
    model.policy.action_net = nn.Linear(3, 2)


CHANGES = [
    exchange_policy,
    exchange_head,
    freeze_a_layer,
    freeze_the_actor,
    hook_on_a_layer,
    hook_on_a_container,
    hook_on_the_policy,
    parametrize,
    residual,
]


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_fast_collection_is_still_sb3s_loop(change, space_env, tiny):
    results = []
    for fast in (True, False):
        model = tiny(space_env(VECTOR, BOX, length=5), fast=fast, critic="adam", target_kl=0.01).learn(16)
        torch.manual_seed(1)
        change(model)
        torch.manual_seed(2)
        model.learn(32, reset_num_timesteps=False)
        results.append({name: np.array(getattr(model.rollout_buffer, name)) for name in ARRAYS})
    for name in ARRAYS:
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-3, atol=1e-4, err_msg=name)


# ------------------------------------------------------------------------------- found by trying to break it
def test_a_model_with_frozen_or_tied_parts_is_saved_and_loaded(space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, BOX), critic="adam").learn(16)
    before = model.get_parameters()
    model.policy.action_net.requires_grad_(False)
    model.learn(16, reset_num_timesteps=False)
    model.save(tmp_path / "frozen")
    TRPO.load(tmp_path / "frozen", env=model.get_env()).learn(16)
    model.set_parameters(before)
    model.policy.mlp_extractor.value_net = model.policy.mlp_extractor.policy_net
    model.learn(16, reset_num_timesteps=False)
    model.save(tmp_path / "tied")
    with pytest.warns(UserWarning, match="optimizer starts afresh"):
        TRPO.load(tmp_path / "tied", env=model.get_env()).learn(16)


@pytest.mark.parametrize("fast", [True, False])
def test_an_old_gradient_does_not_move_a_frozen_actor(fast, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), critic="adam", fast=fast)
    distribution = model.policy.get_distribution(torch.zeros(4, 3))
    (-distribution.log_prob(torch.ones(4, 2)).mean()).backward()
    freeze_the_actor(model)
    actor = actor_and_critic(model.policy)[0]
    before = [parameter.detach().clone() for parameter in actor]
    model.learn(32)
    assert all(torch.equal(old, new) for old, new in zip(before, actor, strict=True))


class NoCritic(ActorCriticPolicy):
    """Values are 0: there is nothing to train."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        del self.value_net
        self.mlp_extractor.value_net = nn.Sequential()

    def predict_values(self, obs):
        return torch.zeros(len(obs), 1)

    def forward(self, obs, deterministic=False):
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)


@pytest.mark.parametrize("critic", ["trust_region", "adam"])
def test_a_critic_without_parameters(critic, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), NoCritic, critic=critic, policy_kwargs={"net_arch": [8], "ortho_init": False})
    before = parameters_of(model.policy)
    model.learn(32)
    assert all(changed(before, model.policy)) and model.logger.name_to_value["train/critic_steps"] == 0


class AtStart(BaseCallback):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def _on_rollout_start(self):
        self.change(self.model)

    def _on_step(self):
        return True


def other_bias(model):
    model.policy.action_net.bias = nn.Parameter(torch.tensor([0.0, 0.0, 50.0]))


def other_head(model):
    model.policy.action_net = nn.Linear(8, 3)
    other_bias(model)


def other_policy(model):
    model.policy = copy.deepcopy(model.policy)
    other_bias(model)


def hook(model):
    model.policy.action_net.register_forward_hook(
        lambda module, inputs, output: output + torch.tensor([0.0, 0.0, 50.0])
    )


@pytest.mark.parametrize("change", [other_bias, other_head, other_policy, hook])
@pytest.mark.parametrize("fast", [True, False])
def test_what_is_exchanged_when_a_rollout_starts_acts_in_it(change, fast, space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE), fast=fast)
    model.learn(16, AtStart(change))
    assert (model.rollout_buffer.actions == 2).all() and float(abs(model.rollout_buffer.log_probs).max()) < 1e-4


def test_an_exchanged_extractor_that_both_share_is_used_by_both(space_env, tiny):
    settings = {"features_extractor_class": Stateful, "features_extractor_kwargs": {"kind": "spectral"}}
    model = tiny(space_env(VECTOR, BOX), policy_kwargs=settings).learn(16)
    model.policy.features_extractor = Stateful(VECTOR, "spectral")
    before = parameters_of(model.policy.features_extractor)
    model.learn(32, reset_num_timesteps=False)
    assert any(changed(before, model.policy.features_extractor))
    observations = torch.as_tensor(model.rollout_buffer.observations[:, 0])
    inputs = model.actor.heads.present(observations.numpy())
    torch.testing.assert_close(model.value_function.values(inputs), model.policy.predict_values(observations))


class Features(ActorCriticPolicy):
    def extract_features(self, obs, features_extractor=None):
        return 3.0 * super().extract_features(obs, features_extractor)


class Distribution(ActorCriticPolicy):
    def get_distribution(self, obs):
        return super().get_distribution(5.0 * obs)


@pytest.mark.parametrize("policy", [Features, Distribution])
def test_policies_with_methods_of_their_own_are_collected_by_sb3s_loop(policy, space_env, tiny):
    results = []
    for fast in (True, False):
        model = tiny(
            space_env(VECTOR, BOX), policy, fast=fast, critic="adam", target_kl=0.01, policy_kwargs={"net_arch": [8]}
        )
        assert not model.actor.heads.can_collect_fast(model.rollout_buffer)
        model.learn(32)
        results.append({name: np.array(getattr(model.rollout_buffer, name)) for name in ARRAYS})
    for name in ARRAYS:
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_method_that_is_replaced_on_the_object_is_called(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX)).learn(16)
    extractor, calls = model.policy.mlp_extractor, []
    original = extractor.forward_actor

    def forward_actor(features):
        calls.append(1)
        return original(features)

    extractor.forward_actor = forward_actor
    model.learn(16, reset_num_timesteps=False)
    assert calls and model.actor.network is None


def test_batch_norm_with_a_last_minibatch_of_one(space_env, tiny):
    settings = {"features_extractor_class": Stateful}
    tiny(space_env(VECTOR, BOX), n_steps=129, policy_kwargs=settings).learn(129)


def test_parameters_that_are_not_finite_are_named_as_the_fault(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX)).learn(16)
    model.policy.value_net.bias.data.fill_(np.nan)
    with pytest.warns(UserWarning, match="own parameters are not finite: load the last good model"):
        model.learn(16, reset_num_timesteps=False)


def test_statistics_that_an_evaluation_shares_recover_too(space_env, tiny):
    train = VecNormalize(DummyVecEnv([lambda: space_env(VECTOR, BOX, bad={5: ("observation", np.nan)})]))
    shared = train.obs_rms
    with pytest.warns(UserWarning, match="Update skipped"):
        tiny(train).learn(16)
    assert train.obs_rms is shared and bool(np.isfinite(shared.mean).all())
