"""RL Zoo's training on two ranks."""

import csv
import os
import subprocess
import sys

import pytest

from sb3_trpo_ext.zoo.ranks import prepare


def test_a_process_by_itself_is_told_what_was_typed():
    assert prepare(["--algo", "trpo_ext", "--eval-freq", "100"]) == ["--algo", "trpo_ext", "--eval-freq", "100"]


@pytest.mark.parametrize(
    "algo, env", [("trpo_ext", "Pendulum-v1"), ("trpo_lstm", "CartPoleNoVel-v1"), ("acer", "CartPole-v1")]
)
def test_two_ranks_train_and_one_writes(algo, env, tmp_path):
    settings = ["-params", "n_steps:32"] if algo != "acer" else []
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "sb3_trpo_ext.zoo", "train", "--algo", algo, "--env", env, "-n", "2000", "--seed", "3"),
            *("--eval-freq", "1000", "--eval-episodes", "1", "--save-freq", "1000", *settings),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Saving to") == 1
    folders = [path.name for path in (tmp_path / "logs" / algo).iterdir() if path.is_dir()]
    assert folders == [f"{env}_1"]
    files = {path.name for path in (tmp_path / "logs" / algo / f"{env}_1").rglob("*")}
    assert {f"{env}.zip", "best_model.zip", "evaluations.npz"} <= files
    saved = sorted(
        int(name.split("_")[2]) for name in files if name.startswith("rl_model_") and name.endswith("steps.zip")
    )
    assert 900 < saved[0] < 1100, (
        saved
    )  # every 1000 steps of both ranks, but for what the number of environments rounds
    monitors = list((tmp_path / "logs" / algo / f"{env}_1").glob("*.monitor.csv"))
    assert monitors and list(csv.reader(monitors[0].open()))
