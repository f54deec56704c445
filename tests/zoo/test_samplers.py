"""The search space of ``-optimize``."""

# In a process of its own, because importing RL Zoo patches gymnasium for good.
DRAW = """
import warnings
import optuna
from sb3_trpo_ext import TRPO
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

for n_actions, dimensions in ((0, 1), (1, 1), (17, 17)):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        drawn = HYPERPARAMS_SAMPLER["trpo_ext"](trial, n_actions, 1, {})
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of settings that the drawn critic has not
            TRPO("MlpPolicy", "CartPole-v1", device="cpu", **drawn)
        assert 0.001 * dimensions <= drawn["target_kl"] <= 0.1 * dimensions
        assert 0.001 * dimensions <= drawn["cg_damping"] <= 0.3 * dimensions
        assert HYPERPARAMS_CONVERTER["trpo_ext"](trial.params) == drawn, "a stored trial gives other settings"
"""


def test_draws_are_arguments_of_the_constructor_and_grow_with_the_action_dimension(installation, tmp_path):
    installation.run("-c", DRAW, cwd=tmp_path)


DRAW_ACER = """
import inspect
import optuna
from sb3_trpo_ext import ACER
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

for n_actions, env in ((0, "CartPole-v1"), (1, "Pendulum-v1")):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        drawn = HYPERPARAMS_SAMPLER["acer"](trial, n_actions, 1, {})
        ACER("MlpPolicy", env, device="cpu", **drawn)
        assert ("learn_std" in drawn) == bool(n_actions)
        assert HYPERPARAMS_CONVERTER["acer"](trial.params) == drawn, "a stored trial gives other settings"
"""


def test_draws_of_acer_are_accepted_by_its_constructor(installation, tmp_path):
    installation.run("-c", DRAW_ACER, cwd=tmp_path)


DRAW_RECURRENT = """
import optuna
from sb3_trpo_ext import RecurrentTRPO
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
kinds = set()
for _ in range(20):
    trial = study.ask()
    drawn = HYPERPARAMS_SAMPLER["trpo_lstm"](trial, 0, 1, {})
    model = RecurrentTRPO("MlpLstmPolicy", "CartPole-v1", device="cpu", **drawn)
    kinds.add((model.policy.recurrent, model.policy.lstm_hidden_size))
    assert HYPERPARAMS_CONVERTER["trpo_lstm"](trial.params) == drawn, "a stored trial gives other settings"
assert len(kinds) > 4
"""


def test_draws_with_memory_are_accepted_by_the_constructor(installation, tmp_path):
    installation.run("-c", DRAW_RECURRENT, cwd=tmp_path)
