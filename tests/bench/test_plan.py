"""Which runs a command line asks for, and what it must not ask for."""

import argparse

import pytest

from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.plan import parameters, plan


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--params", "target_kl:0.1", "--algos", "trpo_ext"], "needs a --label"),
        (["--defaults", "--algos", "trpo_ext"], "--defaults needs a --label"),
        (["--params", "target_kl", "--label", "x", "--algos", "trpo_ext"], "key:value"),
        (["--label", "x"], "one algorithm"),
        (["--label", "../x", "--algos", "trpo_ext"], "name of a folder"),
        (["--label", "..", "--algos", "trpo_ext"], "name of a folder"),
        (["--params", "x:{1,2}", "--label", "x", "--algos", "trpo_ext"], "x:[{]1,2[}]' can not be stored"),
        (["--envs", "Hopper-v4"], "not in the suite quick"),
        (["--envs", "NoSuchEnv-v0", "--timesteps", "10"], "NoSuchEnv"),
    ],
)
def test_contradictions(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main(["learn", "--out", str(tmp_path), *arguments])


def test_a_name_given_twice_is_one_run():
    options = argparse.Namespace(
        suite="quick", envs=["CartPole-v1", "CartPole-v1"], timesteps=None, algos=["trpo", "trpo"], seeds=[0, 0],
        params=[], label=None, defaults=False,
    )  # fmt: skip
    assert len(plan(options)) == 1


def test_parameters_are_read_as_the_zoo_reads_them():
    texts = ["n_steps:512", "normalize:True", "learning_rate:lin_1e-3", "policy_kwargs:dict(log_std_init=-1, a='b:c')"]
    assert parameters(texts) == {
        "n_steps": 512,
        "normalize": True,
        "learning_rate": "lin_1e-3",
        "policy_kwargs": "dict(log_std_init=-1, a='b:c')",
    }
