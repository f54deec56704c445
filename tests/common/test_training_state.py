"""Checkpoints: ten updates and ten more after a restart are twenty, bit for bit."""

import random
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import ACER, TRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo_ext.common.checkpoint import KEPT, newest
from tests.cases import SMALL
from tests.common.cases import WithHandle
from tests.trpo.masked_cases import vec_env

SMALL_MEMORY = {"lstm_hidden_size": 4, "net_arch": [4]}


def pendulum(n=2):
    return make_vec_env("Pendulum-v1", n, seed=1)


def cartpole(n=2):
    return make_vec_env("CartPole-v1", n, seed=1)


CASES = {
    "box": (TRPO, "MlpPolicy", pendulum, {}),
    "discrete": (TRPO, "MlpPolicy", cartpole, {}),
    "adam": (TRPO, "MlpPolicy", pendulum, {"critic": "adam", "batch_size": 16}),
    "gsde": (TRPO, "MlpPolicy", pendulum, {"use_sde": True, "sde_sample_freq": 4}),
    "by SB3's loop": (TRPO, "MlpPolicy", cartpole, {"fast": False}),
    "VecNormalize": (TRPO, "MlpPolicy", lambda: VecNormalize(pendulum()), {}),
    "earlier rollouts": (TRPO, "MlpPolicy", pendulum, {"rollouts_per_update": 3}),
    "damping": (TRPO, "MlpPolicy", pendulum, {"adaptive_damping": True}),
    "masks": (MaskableTRPO, "MlpPolicy", lambda: vec_env("method", "discrete", 2), {}),
    "masks in infos": (MaskableTRPO, "MlpPolicy", lambda: vec_env("infos", "discrete", 2), {}),
    "lstm": (RecurrentTRPO, "MlpLstmPolicy", cartpole, {"policy_kwargs": SMALL_MEMORY}),
    "gru": (RecurrentTRPO, "MlpLstmPolicy", cartpole, {"policy_kwargs": {**SMALL_MEMORY, "recurrent": "gru"}}),
    "acer": (ACER, "MlpPolicy", cartpole, {"replay_start": 60}),
    "acer, box": (ACER, "MlpPolicy", pendulum, {"replay_start": 60, "use_rms_prop": True}),
}
N_STEPS, UPDATES = 16, 20


def model_of(case, **settings):
    algorithm, policy, env, own = CASES[case]
    small = {"policy_kwargs": SMALL.get(policy, {})}
    return algorithm(policy, env(), **{"n_steps": N_STEPS, "seed": 0, "device": "cpu", **small, **own, **settings})


class Interrupted(BaseCallback):
    """In the midst of a rollout, after some updates."""

    def __init__(self, updates):
        super().__init__()
        self.at = updates * N_STEPS + 5

    def _on_step(self):
        if self.n_calls == self.at:
            raise KeyboardInterrupt
        return True


def interrupted(model, updates, total=N_STEPS * 2 * UPDATES):
    with pytest.raises(KeyboardInterrupt):
        model.learn(total, callback=Interrupted(updates), log_interval=1000)


def outcome(model, bits):
    return bits(
        {
            **{f"policy.{name}": value for name, value in model.policy.state_dict().items()},
            "optimizer": model.policy.optimizer.state_dict(),
            "timesteps": model.num_timesteps,
            "updates": model._n_updates,
            "episodes": [one["r"] for one in model.ep_info_buffer],
            "observations": model._last_obs,
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1],
            "log": {name: value for name, value in model.logger.name_to_value.items() if not name.startswith("time/")},
        }
    )


@pytest.mark.parametrize("case", CASES)
def test_ten_updates_and_ten_more_are_twenty(case, tmp_path, bits):
    whole = model_of(case).learn(N_STEPS * 2 * UPDATES, log_interval=1000)
    expected = outcome(whole, bits)

    folder = str(tmp_path)
    interrupted(model_of(case, checkpoint_folder=folder), updates=10)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # another process
    resumed = model_of(case, checkpoint_folder=folder).learn(N_STEPS * 2 * UPDATES, log_interval=1000)
    assert outcome(resumed, bits) == expected


def test_by_hand_and_twice(tmp_path, bits):
    expected = outcome(model_of("box").learn(N_STEPS * 2 * UPDATES, log_interval=1000), bits)
    model = model_of("box")
    assert not model.resume_from(str(tmp_path))
    for updates in (5, 12):
        model = model_of("box", checkpoint_folder=str(tmp_path))
        interrupted(model, updates if updates == 5 else 12 - 5)
    model = model_of("box")
    assert model.resume_from(str(tmp_path))
    assert model.num_timesteps == 12 * N_STEPS * 2
    assert outcome(model.learn(N_STEPS * 2 * UPDATES, log_interval=1000), bits) == expected


def test_between_two_calls_of_learn(tmp_path, bits):
    one = model_of("box").learn(N_STEPS * 2 * 5)
    one.save_checkpoint(str(tmp_path))
    expected = outcome(one.learn(N_STEPS * 2 * 5, reset_num_timesteps=False, log_interval=1000), bits)
    other = model_of("box")
    other.resume_from(str(tmp_path))
    other.learn(N_STEPS * 2 * 5, reset_num_timesteps=False, log_interval=1000)
    assert outcome(other, bits) == expected


@pytest.mark.parametrize("cut", [3, 7])
def test_a_script_of_two_calls_is_run_again(cut, tmp_path, bits):
    def script(model, callback=None):
        for reset in (True, False):
            model.learn(N_STEPS * 2 * 5, reset_num_timesteps=reset, callback=callback, log_interval=1000)
        return outcome(model, bits)

    expected = script(model_of("box"))
    folder = str(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        script(model_of("box", checkpoint_folder=folder), AtSteps(cut * N_STEPS * 2 + 10))
    assert newest(tmp_path).name == f"checkpoint-{cut:012d}"
    assert script(model_of("box", checkpoint_folder=folder)) == expected
    # And once more, when all is done.
    again = model_of("box", checkpoint_folder=folder)
    script(again)
    assert again.num_timesteps == N_STEPS * 2 * 10


class AtSteps(BaseCallback):
    """Interrupts at a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def _on_step(self):
        if self.num_timesteps == self.steps:
            raise KeyboardInterrupt
        return True


def test_a_finished_training_is_not_trained_again(tmp_path, bits):
    folder = str(tmp_path)
    whole = model_of("box", checkpoint_folder=folder).learn(N_STEPS * 2 * 3)
    again = model_of("box", checkpoint_folder=folder).learn(N_STEPS * 2 * 3)
    assert again.num_timesteps == whole.num_timesteps
    assert bits(dict(again.policy.state_dict())) == bits(dict(whole.policy.state_dict()))


def test_the_newest_are_kept(tmp_path):
    model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2 * 6)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"checkpoint-{updates:012d}" for updates in (4, 5, 6)]
    assert len(names) == KEPT


def test_fewer_are_written_where_that_is_wanted(tmp_path):
    model_of("box", checkpoint_folder=str(tmp_path), checkpoint_every=4).learn(N_STEPS * 2 * 6)
    assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint-{4:012d}"]


def test_the_model_in_it_is_an_ordinary_one(tmp_path, bits):
    model = model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2)
    loaded = TRPO.load(newest(tmp_path) / "model.zip", device="cpu")
    assert bits(dict(loaded.policy.state_dict())) == bits(dict(model.policy.state_dict()))


def test_one_cut_short_is_not_taken(tmp_path, monkeypatch):
    model = model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2)

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("sb3_trpo_ext.common.checkpoint.pickle.dump", full)
    with pytest.raises(OSError, match="no space"):
        model.learn(N_STEPS * 2, reset_num_timesteps=False)
    assert newest(tmp_path).name == f"checkpoint-{1:012d}"


def test_a_damaged_one_is_named(tmp_path):
    model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2 * 2)
    (newest(tmp_path) / "rank-0.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"rank-0.pt is damaged.*the one before it is used"):
        model_of("box").resume_from(str(tmp_path))
    shutil.rmtree(newest(tmp_path))
    assert model_of("box").resume_from(str(tmp_path))


def test_another_number_of_environments_is_refused(tmp_path):
    model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2)
    other = TRPO("MlpPolicy", pendulum(3), n_steps=N_STEPS, policy_kwargs=SMALL["MlpPolicy"])
    with pytest.raises(ValueError, match=r"is of 2 environments on rank 0, and this model has 3"):
        other.resume_from(str(tmp_path))


def test_a_model_without_environment_can_not_go_on(tmp_path):
    model = model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="needs an environment"):
        TRPO.load(tmp_path / "model").resume_from(str(tmp_path))


def test_environments_without_a_state_begin_new_episodes(tmp_path):
    def env():
        return VecNormalize(DummyVecEnv([lambda: WithHandle(gym.make("Pendulum-v1"))]))

    settings = {"n_steps": N_STEPS, "seed": 0, "policy_kwargs": SMALL["MlpPolicy"]}
    one = TRPO("MlpPolicy", env(), checkpoint_folder=str(tmp_path), **settings)
    first = one.env.reset()
    one.learn(N_STEPS * 3)
    other = TRPO("MlpPolicy", env(), **settings)
    with pytest.warns(UserWarning, match="they begin new episodes"):
        other.resume_from(str(tmp_path))
    assert np.array_equal(other.env.obs_rms.mean, one.env.obs_rms.mean)
    other.learn(N_STEPS * 5)
    assert other.num_timesteps == N_STEPS * 5
    assert not np.array_equal(other.env.reset(), first)


def test_a_loaded_model_goes_on_from_its_own_checkpoints(tmp_path, bits):
    """Weights trained before, trained further with a folder: the file itself does not say where to write."""
    model_of("box", checkpoint_folder=str(tmp_path / "before")).learn(N_STEPS * 2 * 3).save(tmp_path / "model")

    def further(folder, callback=None):
        model = TRPO.load(tmp_path / "model", env=pendulum(), checkpoint_folder=folder, device="cpu")
        model.learn(N_STEPS * 2 * 6, callback=callback, log_interval=1000)
        return outcome(model, bits)

    assert TRPO.load(tmp_path / "model").checkpoint_folder is None
    expected = further(None)
    folder = str(tmp_path / "after")
    with pytest.raises(KeyboardInterrupt):
        further(folder, Interrupted(4))
    assert further(folder) == expected


def test_a_second_training_has_the_newest_checkpoints(tmp_path):
    model = model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2 * 5)
    model.learn(N_STEPS * 2 * 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{n:012d}" for n in (5, 6, 7)]


def test_a_replay_buffer_that_has_wrapped(tmp_path, bits):
    """Slots and position stay, so that the same sequences are drawn and replaced."""
    small = {"buffer_size": 4 * 2 * N_STEPS, "replay_start": 60}
    expected = outcome(model_of("acer", **small).learn(N_STEPS * 2 * UPDATES, log_interval=1000), bits)
    folder = str(tmp_path)
    interrupted(model_of("acer", **small, checkpoint_folder=folder), updates=10)
    resumed = model_of("acer", **small, checkpoint_folder=folder).learn(N_STEPS * 2 * UPDATES, log_interval=1000)
    assert outcome(resumed, bits) == expected


@pytest.mark.parametrize("wrong", ["no VecNormalize", "another algorithm"])
def test_what_was_not_made_as_it_was_is_named(wrong, tmp_path):
    model_of("VecNormalize", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2)
    if wrong == "no VecNormalize":
        with pytest.raises(ValueError, match=r"a VecNormalize of other parts .* Make the environment as it was"):
            model_of("box").resume_from(str(tmp_path))
    else:
        newer = model_of("lstm")
        newer.set_parameters = lambda *args, **kwargs: None
        with pytest.raises(ValueError, match=r"is of TRPO, and this model is RecurrentTRPO"):
            newer.resume_from(str(tmp_path))


def test_other_wrappers_begin_new_episodes(tmp_path):
    model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2)
    env = make_vec_env("Pendulum-v1", 2, wrapper_class=gym.wrappers.TransformReward, wrapper_kwargs={"func": abs})
    other = TRPO("MlpPolicy", env, n_steps=N_STEPS, policy_kwargs=SMALL["MlpPolicy"])
    with pytest.warns(UserWarning, match="they begin new episodes"):
        assert other.resume_from(str(tmp_path))


def test_before_any_training(tmp_path):
    model_of("box").save_checkpoint(str(tmp_path))
    model = model_of("box")
    assert model.resume_from(str(tmp_path))
    assert model.learn(N_STEPS * 2).num_timesteps == N_STEPS * 2


@pytest.mark.parametrize("value", [0, 1.5, "3"])
def test_a_wrong_setting_is_refused(value):
    with pytest.raises(ValueError, match="checkpoint_every"):
        model_of("box", checkpoint_every=value)


def test_one_of_another_policy_is_refused(tmp_path):
    model_of("box", checkpoint_folder=str(tmp_path)).learn(N_STEPS * 2)
    with pytest.raises(ValueError, match="is of another policy"):
        model_of("discrete").resume_from(str(tmp_path))
