"""Who normalises observations: defaults, what is refused, and files with and without statistics."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecExtractDictObs, VecMonitor, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.normalization import normalizer_of
from sb3_trpo_ext.common.normalization_rules import default_of
from sb3_trpo_ext.trpo import MlpPolicy
from tests.common.cases import BOX, DICT, IMAGE, VECTOR, each_algorithm, made
from tests.conftest import SpaceEnv

NAN = float("nan")


# --------------------------------------------------------------------------------------------- who has them
FLOAT3D = spaces.Box(0, 1, (3, 36, 36))


def normalizing(norm_obs=True, **settings):
    return VecNormalize(
        DummyVecEnv([lambda: SpaceEnv(settings.pop("space", VECTOR), BOX)]), norm_obs=norm_obs, **settings
    )


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (VECTOR, True),
        (spaces.Box(-1, 1, (2, 3)), True),
        (spaces.Box(-1, 1, (3,), np.float64), True),
        (spaces.Box(0, 9, (3,), np.int64), False),
        (IMAGE, False),
        (FLOAT3D, False),
        (spaces.Discrete(3), False),
        (spaces.MultiBinary(3), False),
        (spaces.MultiDiscrete([3, 2]), False),
        (DICT, True),
        (spaces.Dict(picture=IMAGE, choice=spaces.Discrete(3)), False),
    ],
)
def test_what_is_normalised_by_default(space, expected):
    assert default_of(space, None) == expected
    kind = (
        "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if len(space.shape) == 3 else "MlpPolicy"
    )
    model = made(TRPO, SpaceEnv(space, BOX), policy=kind, policy_kwargs={"normalize_images": space is not FLOAT3D})
    assert (normalizer_of(model.policy) is not None) == expected
    assert model.learn(32).policy is not None


def test_a_wrapper_that_normalises_is_left_to_do_it():
    for wrap in (lambda env: env, VecMonitor):
        assert normalizer_of(made(TRPO, wrap(normalizing())).policy) is None
    assert normalizer_of(made(TRPO, normalizing(norm_obs=False)).policy) is not None
    wrapped = gym.wrappers.NormalizeObservation(SpaceEnv(VECTOR, BOX))
    assert normalizer_of(made(TRPO, wrapped).policy) is None
    some = normalizing(space=DICT, norm_obs_keys=["vector"])
    assert normalizer_of(made(TRPO, some, policy="MultiInputPolicy").policy).keys == ["matrix"]


@each_algorithm
def test_nothing_is_normalised_twice(algorithm, tmp_path):
    with pytest.raises(ValueError, match=r"normalised twice.*norm_obs=False"):
        made(algorithm, normalizing(), policy_kwargs={"normalize_observations": True})
    model = made(algorithm, SpaceEnv(VECTOR, BOX))
    with pytest.raises(ValueError, match="normalised twice"):
        model.set_env(normalizing())
    assert not isinstance(model.get_env(), VecNormalize)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="normalised twice"):
        algorithm.load(tmp_path / "model", env=normalizing())
    plain = made(algorithm, normalizing())
    plain.policy = model.policy
    with pytest.raises(ValueError, match="normalised twice"):
        plain.learn(16)


@pytest.mark.parametrize("chosen", ["yes", 1.5, ["choice"], ["nothing"], [], ["picture"]])
def test_what_can_not_be_normalised_is_refused(chosen):
    with pytest.raises(ValueError, match=r"normalize_observations=\.\.\.\) must be"):
        made(TRPO, SpaceEnv(DICT, BOX), policy="MultiInputPolicy", policy_kwargs={"normalize_observations": chosen})


def test_a_space_without_numbers_is_refused():
    with pytest.raises(ValueError, match=r"normalize_observations=\.\.\.\) must be"):
        made(TRPO, SpaceEnv(spaces.Discrete(3), BOX), policy_kwargs={"normalize_observations": True})


@each_algorithm
def test_saved_with_the_policy_and_whole_by_itself(algorithm, bits, tmp_path):
    env = SpaceEnv(spaces.Box(-9, 99, (3,)), BOX)
    given = {"net_arch": [8]}
    model = made(algorithm, env, policy_kwargs=given).learn(48)
    assert model.policy_kwargs == given == {"net_arch": [8]}
    model.save(tmp_path / "model")
    for settings in ({}, {"policy_kwargs": given}):
        loaded = algorithm.load(tmp_path / "model", device="cpu", **settings)
        assert bits(normalizer_of(loaded.policy).state_dict()) == bits(model.policy.normalizer.state_dict())
        rows = np.stack([env.observation_space.sample() for _ in range(9)])
        assert bits(loaded.predict(rows, deterministic=True)[0]) == bits(model.predict(rows, deterministic=True)[0])
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    assert bits(policy.state_dict()) == bits(model.policy.state_dict())
    assert bits(policy.predict(rows, deterministic=True)[0]) == bits(model.predict(rows, deterministic=True)[0])


def test_models_without_statistics_go_on_without_them(tmp_path):
    env = SpaceEnv(VECTOR, BOX)
    ContribTRPO("MlpPolicy", env, n_steps=16, device="cpu").learn(16).save(tmp_path / "contrib")
    made(TRPO, env, policy_kwargs={"normalize_observations": False}).save(tmp_path / "raw")
    made(TRPO, env, policy=ActorCriticPolicy).save(tmp_path / "sb3s")
    for name in ("contrib", "raw", "sb3s"):
        loaded = TRPO.load(tmp_path / name, env=env)
        assert normalizer_of(loaded.policy) is None
        loaded.learn(16)


def test_a_policy_by_itself_normalises_only_when_told():
    assert MlpPolicy(VECTOR, BOX, lambda _: 1e-3).normalizer is None
    assert MlpPolicy(VECTOR, BOX, lambda _: 1e-3, normalize_observations=True).normalizer is not None


@each_algorithm
def test_parameters_without_statistics_switch_them_off(algorithm, bits):
    env = SpaceEnv(VECTOR, BOX)
    raw = made(algorithm, env, policy_kwargs={"normalize_observations": False})
    model = made(algorithm, env, seed=1).learn(16)
    model.set_parameters(raw.get_parameters())
    assert normalizer_of(model.policy) is None
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    assert bits(model.predict(rows, deterministic=True)[0]) == bits(raw.predict(rows, deterministic=True)[0])
    model.learn(16)
    assert model.get_parameters()["policy"].keys() == raw.get_parameters()["policy"].keys()
    asked_for = made(algorithm, env, policy_kwargs={"normalize_observations": True})
    with pytest.raises(ValueError, match="this one was told to"):
        asked_for.set_parameters(raw.get_parameters())
    with pytest.raises(ValueError, match="of a policy that normalises"):
        raw.set_parameters(asked_for.get_parameters())


@each_algorithm
def test_a_part_of_the_parameters_leaves_the_statistics(algorithm, bits):
    model = made(algorithm, SpaceEnv(VECTOR, BOX)).learn(32)
    before = bits(normalizer_of(model.policy).state_dict())
    part = {name: value for name, value in model.policy.state_dict().items() if "action_net" in name}
    model.set_parameters({"policy": part}, exact_match=False)
    assert bits(normalizer_of(model.policy).state_dict()) == before


def clone(policy):
    """As behaviour cloning does it: other weights."""
    with torch.no_grad():
        policy.action_net.weight += 0.5


@each_algorithm
@pytest.mark.parametrize("through", ["learn", "save"])
def test_weights_from_elsewhere_go_on_with_observations_as_they_come(algorithm, through, tmp_path):
    model = made(algorithm, SpaceEnv(spaces.Box(-9, 99, (3,)), BOX))
    clone(model.policy)
    with pytest.warns(UserWarning, match="weights were written before"):
        model.save(tmp_path / "model") if through == "save" else model.learn(16)
    assert normalizer_of(model.policy) is None
    if through == "save":
        model = algorithm.load(tmp_path / "model", env=SpaceEnv(spaces.Box(-9, 99, (3,)), BOX)).learn(16)
        assert normalizer_of(model.policy) is None


@each_algorithm
def test_other_noise_or_statistics_of_ones_own_are_no_reason(algorithm):
    model = made(algorithm, SpaceEnv(VECTOR, BOX))
    with torch.no_grad():
        model.policy.log_std -= 1
    assert normalizer_of(model.learn(16).policy) is not None
    cloned = made(algorithm, SpaceEnv(VECTOR, BOX))
    cloned.policy.normalizer.take_in(torch.randn(9, 3))
    clone(cloned.policy)
    assert normalizer_of(cloned.learn(16).policy) is not None
    asked_for = made(algorithm, SpaceEnv(VECTOR, BOX), policy_kwargs={"normalize_observations": True})
    clone(asked_for.policy)
    assert normalizer_of(asked_for.learn(16).policy) is not None


class OwnForward(MlpPolicy):
    def forward(self, obs, deterministic=False):
        return super().forward(obs, deterministic)


class OwnArguments(MlpPolicy):
    def __init__(self, observation_space, action_space, lr_schedule, use_sde=False):
        super().__init__(observation_space, action_space, lr_schedule, use_sde=use_sde)


class OwnBuild(MlpPolicy):
    def _build(self, lr_schedule):
        ActorCriticPolicy._build(self, lr_schedule)


@pytest.mark.parametrize("policy", [OwnForward, OwnArguments, OwnBuild])
def test_a_subclass_with_ways_of_its_own_is_left_alone(policy):
    with pytest.warns(UserWarning, match=f"{policy.__name__} has its own"):
        model = made(TRPO, SpaceEnv(VECTOR, BOX), policy=policy)
    assert normalizer_of(model.learn(16).policy) is None


def test_a_subclass_with_ways_of_its_own_can_be_told():
    told = {"policy_kwargs": {"normalize_observations": True}}
    assert normalizer_of(made(TRPO, SpaceEnv(VECTOR, BOX), policy=OwnForward, **told).policy) is not None


def test_the_option_is_none_of_sb3s_policies():
    env = SpaceEnv(VECTOR, BOX)
    off = {"policy_kwargs": {"normalize_observations": False}}
    assert normalizer_of(made(TRPO, env, policy=ActorCriticPolicy, **off).learn(16).policy) is None
    with pytest.raises(ValueError, match="for this package's policies"):
        made(TRPO, env, policy=ActorCriticPolicy, policy_kwargs={"normalize_observations": True})


def test_what_policy_kwargs_say_wins_over_what_was_the_default(tmp_path):
    env = SpaceEnv(VECTOR, BOX)
    made(TRPO, env, policy_kwargs={"net_arch": [8]}).save(tmp_path / "model")
    said = {"policy_kwargs": {"net_arch": [8], "normalize_observations": False}}
    with pytest.raises(ValueError, match="of a policy that normalises"):
        TRPO.load(tmp_path / "model", custom_objects=said)


def test_wrappers_are_looked_through():
    inner = normalizing(space=spaces.Dict(a=VECTOR, b=VECTOR), norm_obs_keys=["a"])
    assert default_of(VECTOR, VecExtractDictObs(inner, "a")) is False
    assert default_of(VECTOR, VecExtractDictObs(inner, "b")) is True
    twice = VecNormalize(VecNormalize(DummyVecEnv([lambda: SpaceEnv(VECTOR, BOX)]), norm_reward=False), norm_obs=False)
    assert default_of(VECTOR, twice) is False
    model = made(TRPO, SpaceEnv(VECTOR, BOX))
    model.env = VecNormalize(model.env)
    with pytest.raises(ValueError, match="normalised twice"):
        model.learn(16)
