"""MaskableTRPO: the mathematics against dense algebra, the contract with SB3, and what sb3-contrib's users expect."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.maskable import evaluation
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.callbacks import StopTrainingOnNoModelImprovement
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnv, IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import TRPO, MaskableTRPO
from sb3_trpo_ext.common.sampler import ArraySampler, PolicySampler
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.trpo.masked import MaskedHeads, MaskedInputs
from sb3_trpo_ext.trpo.masks import MaskSource
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.direction import Backtracking, NaturalGradient
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import KLRegion, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from tests.cases import SMALL, dense, each_device, hessian, make_policy
from tests.trpo.masked_cases import ACTIONS, SOURCES, Doors, WithMethod, policy_of, vec_env

each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


def make(env, policy="MlpPolicy", **settings):
    policy_kwargs = {**SMALL[policy], **settings.pop("policy_kwargs", {})}
    return MaskableTRPO(
        policy, env, policy_kwargs=policy_kwargs, **{"n_steps": 16, "seed": 0, "device": "cpu", **settings}
    )


# ------------------------------------------------------------------------------------------- mathematics
MASKS = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.bool)


def example(fast):
    policy = make_policy("discrete", precise=True)
    actor = Actor(MaskedHeads(policy, MaskSource(policy.action_space)), fast)
    assert (actor.network is not None) == fast
    return policy, actor, MaskedInputs(torch.randn(5, 3), MASKS)


def size_of(actor):
    return sum(parameter.numel() for parameter in actor.parameters)


def log_probs(policy, inputs):
    logits = policy.get_distribution(inputs.observations).distribution.logits
    return torch.where(inputs.masks, logits, -torch.inf).log_softmax(dim=1)


@each_way
def test_fisher_matrix_is_the_hessian_of_the_kl_over_allowed_choices(fast):
    policy, actor, inputs = example(fast)
    family, linearization = actor.linearize(inputs)
    found = dense(Fisher(linearization, family, 0.0), size_of(actor))
    old = log_probs(policy, inputs).detach()
    new = log_probs(policy, inputs)
    allowed = [(old[i][m].exp() * (old[i][m] - new[i][m])).sum() for i, m in enumerate(inputs.masks)]
    torch.testing.assert_close(found, hessian(torch.stack(allowed).mean(), actor.parameters), rtol=1e-8, atol=1e-10)


@each_way
def test_a_state_with_one_choice_has_no_part_in_gradient_and_curvature(fast):
    _, actor, inputs = example(fast)
    alone = inputs.rows(torch.tensor([1]))
    family, linearization = actor.linearize(alone)
    assert not (Fisher(linearization, family, 0.0) @ torch.ones(size_of(actor), dtype=torch.float64)).any()
    batch = Batch(alone, torch.zeros(1, 1), torch.ones(1), torch.zeros(1), torch.zeros(1))
    step = trust_region_step(actor, batch, KLRegion(0.01, summed, 0.1), NaturalGradient(9, 1e-9), Backtracking(0.8, 10))
    assert step.status is StepStatus.ZERO_GRADIENT and step.gradient_norm == 0 and step.entropy == 0


@each_way
def test_a_step_rises_within_the_region_and_forbidden_choices_stay_without_a_say(fast):
    policy, actor, inputs = example(fast)
    old = log_probs(policy, inputs).detach()
    actions = torch.tensor([[3.0], [0.0], [2.0], [1.0], [2.0]], dtype=torch.float64)
    advantages = torch.tensor([1.0, 5.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    batch = Batch(inputs, actions, advantages, torch.zeros(5), torch.zeros(5))
    step = trust_region_step(
        actor, batch, KLRegion(0.01, summed, 0.1), NaturalGradient(50, 1e-10), Backtracking(0.8, 10)
    )
    new = log_probs(policy, inputs).detach()
    kl = torch.where(inputs.masks, old.exp() * (old - new), 0).sum(dim=1)
    assert step.status is StepStatus.ACCEPTED and kl[1] == 0  # one choice: nothing to learn, nothing to measure
    assert step.kl_mean == pytest.approx(float(kl.mean()), rel=1e-9) and step.kl_mean <= 0.01
    ratio = (new - old).gather(1, actions.long()).squeeze(1).exp()
    assert step.objective_after == pytest.approx(float((ratio * advantages).mean()), rel=1e-9)
    assert bool((actor.family(inputs).logits.softmax(dim=1)[~inputs.masks] == 0).all())


def test_inputs_keep_each_mask_with_its_state():
    inputs = MaskedInputs(torch.arange(5.0)[:, None], MASKS)
    some = inputs.rows(torch.tensor([4, 0])).followed_by(inputs.rows(torch.tensor([1])))
    assert some.observations.flatten().tolist() == [4, 0, 1]
    assert torch.equal(some.masks, MASKS[[4, 0, 1]])


@pytest.mark.parametrize("action", ACTIONS)
def test_the_ratio_is_1_at_the_policy_that_acted(action):
    """What the buffer holds is what the policy says of the same states, masks and actions."""
    model = make(vec_env("method", action), n_steps=32)
    model.learn(96)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, 32)
    rollout = model._rollout()
    family = model.actor.family(rollout.inputs)
    found = family.log_prob(model.actor.family_actions(rollout.actions))
    stored = torch.as_tensor(model.rollout_buffer.swap_and_flatten(model.rollout_buffer.log_probs)).flatten()
    torch.testing.assert_close(found, stored, rtol=1e-5, atol=1e-5)


def test_masks_follow_their_states_also_when_a_callback_draws_samples(tiny):
    """Then the buffer's arrays are flat."""
    model = make(vec_env("method", "discrete"))
    model.learn(48)
    next(model.rollout_buffer.get(8))
    inputs = model._rollout().inputs
    assert torch.equal(inputs.masks, inputs.observations.bool())


# ------------------------------------------------------------------------------------------- contract
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("source", SOURCES)
@each_way
def test_runs_repeats_predicts_saves_and_loads(action, source, fast, bits, tmp_path):
    def trained():
        return make(vec_env(source, action), policy_of(source), fast=fast).learn(96)

    model = trained()
    assert bits(model.get_parameters()) == bits(trained().get_parameters())
    assert model.logger.name_to_value["train/update_status"] in (0, 1)
    model.save(tmp_path / "model")
    loaded = MaskableTRPO.load(tmp_path / "model", env=vec_env(source, action))
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    observations, actions = loaded.env.reset(), []
    for each in (model, loaded):
        each.set_random_seed(5)
        actions.append(each.predict(observations, action_masks=np.ones_like(model._masks.rollout[0]))[0])
    np.testing.assert_array_equal(*actions)
    loaded.learn(48, reset_num_timesteps=False)
    assert loaded.num_timesteps == 144
    loaded.policy.save(tmp_path / "policy")
    again = type(loaded.policy).load(tmp_path / "policy")
    assert bits(again.state_dict()) == bits(loaded.policy.state_dict())


@pytest.mark.parametrize("action", ACTIONS)
def test_both_samplers_take_the_same_trajectory(action):
    """In array arithmetic, and through the policy."""

    def trajectory(fast):
        model = make(vec_env("method", action), fast=fast)
        sampler = model.actor.heads.sampler(model.actor.network, 3, None)
        assert type(sampler) is (ArraySampler if fast else PolicySampler)
        return model.learn(48).rollout_buffer.actions

    np.testing.assert_array_equal(trajectory(True), trajectory(False))


@pytest.mark.parametrize("action", ACTIONS)
def test_with_everything_allowed_it_is_trpo(action, bits):
    class Open(Doors):
        def step(self, action):
            self.open = [np.ones(size, bool) for size in self.sizes]
            return super().step(action)

        def action_masks(self):
            return np.ones(sum(self.sizes), bool)

    env = lambda: DummyVecEnv([lambda: Open(ACTIONS[action])] * 2)  # noqa: E731
    masked = make(env()).learn(96)
    plain = TRPO("MlpPolicy", env(), n_steps=16, seed=0, device="cpu", policy_kwargs=SMALL["MlpPolicy"]).learn(96)
    assert bits(masked.get_parameters()) == bits(plain.get_parameters())


def test_observations_are_normalised_inside():
    model = make(vec_env("method", "discrete")).learn(48)
    assert int(model.policy.normalizer.moments[0].count) == 48


@pytest.mark.parametrize("settings", [{"critic": "adam"}, {"rollouts_per_update": 2}, {"sub_sampling_factor": 3}])
def test_settings_of_trpo(settings):
    make(vec_env("method", "multi_discrete", truncates=True), **settings).learn(144)


def test_a_rollout_with_nan_is_skipped():
    class Breaks(WithMethod):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, np.nan if self.left == 3 else reward, *rest

    with pytest.warns(UserWarning, match="Update skipped: .* rewards"):
        model = make(Breaks()).learn(16)
    assert model._n_skipped_updates == 1


def test_what_it_is_not_for_is_refused():
    with pytest.raises(ValueError, match=r"subclass of sb3_trpo_ext.trpo.MaskableMlpPolicy, got ActorCriticPolicy"):
        MaskableTRPO(ActorCriticPolicy, WithMethod())
    with pytest.raises(ValueError, match=r"actions of type Discrete, MultiDiscrete, MultiBinary, got Box"):
        MaskableTRPO("MlpPolicy", IdentityEnvBox())


# ------------------------------------------------------------------------------------------- learning
def test_it_learns_which_open_door_pays():
    for action in ("discrete", "multi_discrete"):
        model = make(vec_env("method", action, n=2), n_steps=128, target_kl=0.1, policy_kwargs={"net_arch": [32]})
        model.learn(40 * 256)
        assert model.rollout_buffer.rewards.mean() > 0.8, action  # about 0.6 by chance


@pytest.mark.parametrize(
    ("env", "mean"),
    [
        (lambda: InvalidActionEnvDiscrete(dim=70, n_invalid_actions=55), 90),
        (lambda: InvalidActionEnvMultiDiscrete(dims=[5, 3, 7], n_invalid_actions=6), 90),
        (lambda: InvalidActionEnvMultiBinary(dims=6, n_invalid_actions=3), 90),
    ],
)
@pytest.mark.slow
def test_sb3_contribs_environments_are_learned(env, mean):
    np.random.seed(0)
    model = MaskableTRPO("MlpPolicy", env(), gamma=0.4, seed=32, n_steps=256, target_kl=0.3, device="cpu")
    model.learn(10_000)
    assert evaluate_policy(model, model.get_env(), n_eval_episodes=20, warn=False)[0] >= mean


# ------------------------------------------------------------------------------------------- as MaskablePPO
ONE_LEFT = {
    "discrete": lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=19),
    "multi_discrete": lambda: InvalidActionEnvMultiDiscrete(dims=[2, 3], n_invalid_actions=3),
    "multi_binary": lambda: InvalidActionEnvMultiBinary(dims=3, n_invalid_actions=3),
}


class InDict(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict(obs=env.observation_space)

    def observation(self, observation):
        return {"obs": observation}


@pytest.mark.parametrize("wrap", [lambda env: env, InDict], ids=["plain", "dict"])
@pytest.mark.parametrize("env", ONE_LEFT.values(), ids=ONE_LEFT)
def test_where_one_choice_is_left_a_new_model_takes_it(env, wrap):
    env = wrap(env())
    model = MaskableTRPO("MultiInputPolicy" if wrap is InDict else "MlpPolicy", env, n_steps=64, device="cpu")
    evaluation.evaluate_policy(model, env, reward_threshold=99, warn=False)
    assert evaluate_policy(model, env, warn=False)[0] == 100
    unmasked = evaluation.evaluate_policy(model, env, warn=False, use_masking=False)
    assert unmasked[0] < 99, "sb3-contrib's switch is heard"


def test_sb3_contribs_switch_in_environments_without_masks():
    env = IdentityEnv(dim=2)
    model = MaskableTRPO("MlpPolicy", env, n_steps=64, seed=8, device="cpu")
    with pytest.raises(ValueError, match="offers no action masks"):
        model.learn(100)
    model.learn(100, use_masking=False)
    evaluation.evaluate_policy(model, env, warn=False, use_masking=False)


def test_sb3_contribs_callback_with_callbacks_of_its_own(tmp_path):
    env = InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10)
    model = MaskableTRPO("MlpPolicy", env, n_steps=64, gamma=0.4, seed=32, device="cpu")
    stop = StopTrainingOnNoModelImprovement(1, 2)
    callback = MaskableEvalCallback(Monitor(env), eval_freq=64, callback_after_eval=stop, log_path=str(tmp_path))
    model.learn(128, callback=callback)
    assert stop.n_calls > 0


def test_sb3_contribs_wrapper_with_images_and_a_time_limit():
    def forbids_one(env):
        return np.arange(env.action_space.n) != env.unwrapped.current_step % env.action_space.n

    env = gym.wrappers.TimeLimit(ActionMasker(FakeImageEnv(), forbids_one), 30)
    model = MaskableTRPO(
        "CnnPolicy", env, n_steps=64, policy_kwargs={"features_extractor_kwargs": {"features_dim": 32}}, device="cpu"
    )
    model.learn(128)
    evaluate_policy(model, env, n_eval_episodes=1, warn=False)


@pytest.mark.parametrize("action", ACTIONS)
@each_way
@each_device
def test_on_every_device(action, fast, device):
    model = make(vec_env("method", action), fast=fast, device=device).learn(96)
    assert model.logger.name_to_value["train/update_status"] in (0, 1)
    evaluate_policy(model, vec_env("method", action), n_eval_episodes=3, warn=False)
