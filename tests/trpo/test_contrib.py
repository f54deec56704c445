"""Models of sb3-contrib's TRPO are opened with their meaning, and trained on."""

from functools import partial

import pytest
import sb3_contrib
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.trpo import contrib
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from tests.cases import SMALL
from tests.trpo.cases import KINDS


@pytest.fixture
def build_contrib(space_env):
    def make(kind, **settings):
        policy, observation_space, action_space = kind
        environment = DummyVecEnv([partial(space_env, observation_space, action_space)] * 2)
        defaults = {"n_steps": 16, "batch_size": 16, "seed": 0, "device": "cpu", "policy_kwargs": SMALL[policy]}
        return sb3_contrib.TRPO(policy, environment, **(defaults | settings))

    return make


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
def test_model_of_sb3_contrib_is_opened_and_trained_on(kind, trained, build_contrib, bits, tmp_path):
    theirs = build_contrib(kind, target_kl=0.02, cg_damping=0.07, gamma=0.95, learning_rate=3e-3)
    if trained:
        theirs.learn(64)
    theirs.save(tmp_path / "model")
    ours = TRPO.load(tmp_path / "model", env=theirs.get_env(), device="cpu")
    assert (ours.kl_reduction, ours.critic) == ("mean", "adam") and isinstance(ours, TRPO)
    for name in ("target_kl", "cg_damping", "gamma", "learning_rate", "n_steps", "num_timesteps", "_n_updates"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert bits(ours.policy.state_dict()) == bits(theirs.policy.state_dict())

    observations = theirs.get_env().reset()
    for deterministic in (True, False):
        actions = []
        for model in (theirs, ours):
            model.set_random_seed(4)
            actions.append(model.predict(observations, deterministic=deterministic)[0])
        assert bits(actions[0]) == bits(actions[1])

    names = {id(parameter): name for name, parameter in ours.policy.named_parameters()}
    of_theirs = dict(theirs.policy.named_parameters())
    assert len(ours.policy.optimizer.state) == (len(ours.actor.critic_parameters()) if trained else 0)
    for parameter, moments in ours.policy.optimizer.state.items():
        assert bits(moments) == bits(theirs.policy.optimizer.state[of_theirs[names[id(parameter)]]])

    before = bits(ours.policy.state_dict())
    ours.learn(64, reset_num_timesteps=False)
    logged = dict(ours.logger.name_to_value)
    assert ours.num_timesteps == 64 * (1 + trained) and bits(ours.policy.state_dict()) != before
    assert logged["train/update_status"] == StepStatus.ACCEPTED.code and logged["train/kl_divergence_loss"] <= 0.02

    ours.save(tmp_path / "again")
    again = TRPO.load(tmp_path / "again")
    assert (again.kl_reduction, again.critic) == ("mean", "adam")
    assert bits(again.get_parameters()) == bits(ours.get_parameters())


def test_model_of_sb3_contrib_may_be_given_another_kl(build_contrib, tmp_path):
    build_contrib(KINDS["mlp"]).save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", kl_reduction="sum", target_kl=0.02)
    assert (loaded.kl_reduction, loaded.target_kl) == ("sum", 0.02)


def test_parameters_of_sb3_contrib_can_be_set(build, build_contrib, bits, tmp_path):
    theirs = build_contrib(KINDS["mlp"]).learn(32)
    theirs.save(tmp_path / "model")
    for source in (str(tmp_path / "model"), theirs.get_parameters()):
        ours = build(KINDS["mlp"])
        ours.set_parameters(source, device="cpu")
        assert bits(ours.policy.state_dict()) == bits(theirs.policy.state_dict())
        assert len(ours.policy.optimizer.state) == len(ours.actor.critic_parameters())


@pytest.mark.parametrize(("given", "fused"), [({}, True), ({"fused": False}, False)])
def test_which_form_of_adam_runs_is_not_for_the_file_to_say(given, fused, build_contrib, tmp_path):
    """sb3-contrib's runs unfused; the saved numbers are taken over, how they are worked with is not."""
    policy_kwargs = {"net_arch": [8], "optimizer_kwargs": {"eps": 1e-4, **given}}
    theirs = build_contrib(KINDS["mlp"], policy_kwargs=policy_kwargs).learn(32)
    theirs.save(tmp_path / "model")
    assert not theirs.policy.optimizer.param_groups[0]["fused"]
    for ours in (TRPO.load(tmp_path / "model"), TRPO("MlpPolicy", theirs.get_env(), policy_kwargs=policy_kwargs)):
        ours.set_parameters(str(tmp_path / "model"), device="cpu")
        (group,) = ours.policy.optimizer.param_groups
        assert bool(group["fused"]) is fused and group["eps"] == 1e-4
        assert len(ours.policy.optimizer.state) == len(group["params"]) == len(ours.actor.critic_parameters())


OF_OLD_FILES = {"_target_kl_falls": False, "critic_gae_lambda": None}


@pytest.mark.parametrize(
    ("saved", "unsaid"),
    [
        ({"target_kl": 0.01}, {"kl_reduction": "mean", "critic": "adam", "critic_gae_lambda": None}),
        ({"kl_reduction": "sum", "fast": True, "_timesteps_before": 0}, {}),
        ({"kl_reduction": "sum", "fast": True}, OF_OLD_FILES),
        ({"kl_reduction": "sum", "fast": False, "fast_kernels": True}, OF_OLD_FILES),
        ({"kl_reduction": "sum", "fast_kernels": True, "fast_collection": True}, OF_OLD_FILES | {"fast": True}),
        ({"kl_reduction": "sum", "fast_kernels": True, "fast_collection": False}, OF_OLD_FILES | {"fast": False}),
        ({"kl_reduction": "sum", "fast_kernels": False}, OF_OLD_FILES | {"fast": False}),
        ({"kl_reduction": "sum"}, OF_OLD_FILES | {"fast": True}),
    ],
)
def test_what_a_file_leaves_out(saved, unsaid):
    assert contrib.unsaid(saved) == unsaid


class Policy(nn.Module):
    """Three parameters, of which the last two are the critic's, with an optimizer of those."""

    def __init__(self):
        super().__init__()
        self.actor, self.one, self.two = (nn.Parameter(torch.zeros(n)) for n in (1, 2, 3))
        self.critic = [self.one, self.two]
        self.optimizer = torch.optim.Adam(self.critic, fused=True)


def stepped(parameters, **settings):
    """The state of an optimizer of some parameters after a step along gradients of 1, 2, …"""
    optimizer = torch.optim.Adam(parameters, **settings)
    for i, parameter in enumerate(parameters, 1):
        parameter.grad = torch.full_like(parameter, i)
    optimizer.step()
    return optimizer.state_dict()


def test_of_an_optimizer_of_the_whole_policy_the_critics_part_is_kept():
    policy, other = Policy(), Policy()
    saved = {"policy": {}, "policy.optimizer": stepped(list(other.parameters()), lr=0.5, fused=False)}
    usable = contrib.usable(saved, policy, policy.critic)
    assert usable["policy"] is saved["policy"]
    policy.optimizer.load_state_dict(usable["policy.optimizer"])
    (group,) = policy.optimizer.param_groups
    assert (group["lr"], group["fused"]) == (0.5, True)
    for parameter, gradient in zip(policy.critic, (2.0, 3.0), strict=True):
        moment = policy.optimizer.state[parameter]["exp_avg"]
        torch.testing.assert_close(moment, torch.full_like(parameter, 0.1 * gradient))  # (1 − β₁) g


def test_of_an_optimizer_that_never_stepped_nothing_is_kept_but_its_settings():
    policy, other = Policy(), Policy()
    saved = {"policy.optimizer": torch.optim.Adam(other.parameters(), lr=0.5).state_dict()}
    part = contrib.usable(saved, policy, policy.critic)["policy.optimizer"]
    assert part["state"] == {} and part["param_groups"][0]["params"] == [0, 1]


def test_what_is_ours_already_stays_as_it_is():
    policy = Policy()
    for saved in ({"policy": {}}, {"policy.optimizer": stepped(policy.critic, lr=0.5)}):
        assert contrib.usable(saved, policy, policy.critic) is saved
