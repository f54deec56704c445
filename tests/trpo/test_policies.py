"""The policies' own arguments: what they change, and nothing else."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)

from sb3_trpo_ext.trpo import CnnPolicy, MlpPolicy, MultiInputPolicy
from tests.cases import ACTIONS

VECTOR = spaces.Box(-np.inf, np.inf, (4,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": VECTOR})
POLICIES = {"mlp": (MlpPolicy, VECTOR), "cnn": (CnnPolicy, IMAGE), "dict": (MultiInputPolicy, DICT)}
SB3S = {"mlp": ActorCriticPolicy, "cnn": ActorCriticCnnPolicy, "dict": MultiInputActorCriticPolicy}


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("action", ["box", "discrete", "multi_binary"])
def test_last_layer_gain_scales_the_last_layer_alone(kind, action, tmp_path):
    policy_class, space = POLICIES[kind]

    def parameters(**settings):
        torch.manual_seed(0)
        return policy_class(space, ACTIONS[action], lambda _: 1e-3, **settings)

    plain, scaled = parameters(), parameters(last_layer_gain=0.5)
    for name, parameter in scaled.named_parameters():
        factor = 50.0 if name == "action_net.weight" else 1.0
        torch.testing.assert_close(parameter, factor * plain.get_parameter(name))
    # The gain of an orthogonal initialisation is every singular value.
    lengths = torch.linalg.svdvals(scaled.action_net.weight)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.5))
    scaled.save(tmp_path / "policy")
    assert policy_class.load(tmp_path / "policy").last_layer_gain == 0.5


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("ortho_init", [True, False])
def test_the_critic_can_start_with_0_and_all_else_is_as_sb3_has_it(kind, ortho_init):
    policy_class, space = POLICIES[kind]
    torch.manual_seed(0)
    policy = policy_class(space, ACTIONS["box"], lambda _: 1e-3, ortho_init=ortho_init, log_std_init=0.0)
    policy.predict_0()
    torch.manual_seed(0)
    separate = {} if kind == "mlp" else {"share_features_extractor": False}
    sb3s = SB3S[kind](space, ACTIONS["box"], lambda _: 1e-3, ortho_init=ortho_init, **separate)
    observations = {key: torch.as_tensor(value)[None] for key, value in DICT.sample().items()}
    seen = {"mlp": torch.randn(1, 4), "cnn": observations["image"], "dict": observations}[kind]
    assert policy.predict_values(seen).item() == 0
    torch.nn.init.zeros_(sb3s.value_net.weight)
    torch.nn.init.zeros_(sb3s.value_net.bias)
    torch.testing.assert_close(policy.state_dict(), sb3s.state_dict(), rtol=0, atol=0)


def test_the_noise_starts_in_proportion_to_the_range_of_each_action(tmp_path):
    far = np.finfo(np.float32).max
    bounds = [(-1, 1), (0, 1), (-2, 6), (3, 3), (-far, far), (-np.inf, np.inf)]
    space = spaces.Box(*np.array(bounds, np.float32).T)
    policy = MlpPolicy(VECTOR, space, lambda _: 1e-3)
    expected = torch.tensor([1, 0.5, 4, 1, 1, 1]) * np.exp(-1)
    torch.testing.assert_close(policy.log_std.exp().detach(), expected)
    with torch.no_grad():
        policy.log_std += 1
    policy.save(tmp_path / "policy")
    loaded = MlpPolicy.load(tmp_path / "policy")
    assert loaded.noise_by_bounds and torch.equal(loaded.log_std, policy.log_std)
    given = MlpPolicy(VECTOR, space, lambda _: 1e-3, log_std_init=-2.0)
    assert torch.equal(given.log_std, torch.full((6,), -2.0)) and not given.noise_by_bounds
    assert float(MlpPolicy(VECTOR, space, lambda _: 1e-3, use_sde=True).log_std.abs().max()) == 0


@pytest.mark.parametrize("gain", [0, -1.0, float("nan"), float("inf"), "1", None])
def test_a_gain_that_is_none(gain):
    with pytest.raises(ValueError, match=r"last_layer_gain=\.\.\.\) must be a finite number above 0, got"):
        MlpPolicy(VECTOR, ACTIONS["box"], lambda _: 1e-3, last_layer_gain=gain)


def test_a_gain_without_orthogonal_initialisation():
    with pytest.raises(ValueError, match="needs ortho_init=True"):
        MlpPolicy(VECTOR, ACTIONS["box"], lambda _: 1e-3, last_layer_gain=1.0, ortho_init=False)
