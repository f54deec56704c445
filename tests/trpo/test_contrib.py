"""Models of sb3-contrib's TRPO are opened with their meaning, and trained on."""

from functools import partial

import pytest
import sb3_contrib
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import TRPO
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
    assert logged["train/update_status"] == "accepted" and logged["train/kl_divergence_loss"] <= 0.02

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
