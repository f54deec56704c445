"""
The command: what it writes and prints, and how it ends. Some tests put a stand-in in the place of training. The others
train CartPole for real, and those that train for long are marked slow.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.bench import jobs, learn
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.results import Run
from sb3_trpo_ext.bench.run import constructor_settings
from sb3_trpo_ext.bench.store import read_all


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("signals_of_a_terminal", "stand_in")
def test_interruption_ends_what_runs_and_keeps_what_is_finished(tmp_path, runs, number, monkeypatch, capsys):
    started = []
    start = jobs.start
    monkeypatch.setattr(jobs, "start", lambda run, out: started.append(start(run, out)) or started[-1])

    def interrupt():
        while not (tmp_path / "runs.jsonl.running/trpo_ext/CartPole-v1_10_2.progress").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as end:
        learn.execute(runs(4, 2), tmp_path / "runs.jsonl", jobs=1)
    assert end.value.code == 130
    assert "1 of 2 runs are finished and kept" in capsys.readouterr().out
    assert len(started) == 2 and all(one.process.poll() is not None for one in started)
    assert [path.name for path in tmp_path.glob("runs*")] == ["runs.jsonl"]
    assert [one.run.seed for one in read_all([tmp_path / "runs.jsonl"])] == [4]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def really_train(out, *options, timesteps="2e3", **variables):
    """The command, run for real on CartPole with variables of the environment; returns what it prints."""
    command = ["-m", "sb3_trpo_ext.bench", "learn", "--envs", "CartPole-v1", "--algos", "trpo_ext", "--seeds", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    result = subprocess.run(
        [sys.executable, *command, "--timesteps", timesteps, *options, "--out", str(out)],
        env=environment, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_short_run_is_trained_evaluated_and_written(tmp_path):
    """Also where the locale has no more than ASCII, and our file of settings has."""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    out = tmp_path / "größe.jsonl"
    printed = really_train(out, "--params", "target_kl:0.03", "--label", "short", timesteps="200", **ascii_only)
    assert "1 run, 0 finished earlier\n[1/1]" in printed and "short CartPole-v1 200 seed 7: return" in printed
    assert "Next: python -m sb3_trpo_ext.bench report --results " in printed
    assert list(tmp_path.iterdir()) == [out]
    (result,) = read_all([out])
    assert result.run == Run("trpo_ext", "CartPole-v1", 200, 7, "short", {"target_kl": 0.03})
    assert result.steps[-1] == result.document["all_settings"]["n_steps"] == 2048
    assert result.document["all_settings"]["target_kl"] == 0.03 and len(result.evaluation) == 20


def test_the_same_command_again_starts_nothing(tmp_path, stand_in, capsys):
    out = tmp_path / "two words.jsonl"
    command = ["learn", "--envs", "CartPole-v1", "--timesteps", "10", "--algos", "trpo_ext", "--seeds", "0", "4"]
    main([*command, "--out", str(out)])
    assert "2 runs, 0 finished earlier\n[1/2]" in capsys.readouterr().out
    main([*command, "--out", str(out)])
    printed = capsys.readouterr().out
    assert "2 runs, 2 finished earlier\nAll is in" in printed and printed.endswith(f"report --results '{out}'\n")
    assert stand_in == [0, 4]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """With changed settings."""
    out = tmp_path_factory.mktemp("trained") / "runs.jsonl"
    return out, really_train(out, "--params", "target_kl:0.03", "normalize:True", "--label", "wide")


@pytest.mark.slow
def test_a_run_writes_all_that_it_must(trained):
    out, printed = trained
    assert "[1/1]" in printed and "wide CartPole-v1 2k seed 7: return" in printed
    (result,) = read_all([out])
    document = result.document
    assert result.run == Run("trpo_ext", "CartPole-v1", 2000, 7, "wide", {"target_kl": 0.03, "normalize": True})
    assert len(result.steps) == len(result.returns) == len(result.seconds) >= 20
    assert list(result.steps) == sorted(set(result.steps)) and result.steps[-1] == 2048
    assert list(result.seconds) == sorted(result.seconds) and document["processor_seconds"] == result.seconds[-1]
    assert document["curve"]["seconds"][-1] == document["wall_seconds"]
    assert len(result.evaluation) == 20
    # Rewards are normalised for the algorithm, not in what is written: whole numbers, from 8 on.
    assert 8 <= min(result.returns) and all(one == int(one) >= 8 for one in result.evaluation)
    assert document["zoo_settings"]["target_kl"] == document["all_settings"]["target_kl"] == 0.03
    assert document["all_settings"]["n_steps"] == 2048 and "cg_max_steps" in document["all_settings"]
    assert {"commit", "machine"} <= document.keys() and {"torch", "gymnasium", "sb3-contrib"} <= document[
        "versions"
    ].keys()
    assert document["command"] == result.run.command()


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(trained):
    out, _ = trained
    before = out.read_bytes()
    (result,) = read_all([out])
    arguments = result.run.command().split("bench ")[1].replace("'", "").split()
    main([*arguments, "--out", str(out)])
    assert out.read_bytes() == before


@pytest.mark.slow
def test_defaults_are_those_of_the_constructor(tmp_path):
    really_train(tmp_path / "runs.jsonl", "--defaults", "--params", "n_envs:2", "normalize:True", "--label", "plain")
    (result,) = read_all([tmp_path / "runs.jsonl"])
    zoo = {"n_envs": 2, "n_timesteps": 2000, "normalize": True, "policy": "MlpPolicy"}
    assert result.document["zoo_settings"] == zoo
    expected = constructor_settings(TRPO("MlpPolicy", "CartPole-v1", device="cpu", seed=7, verbose=1))
    assert result.document["all_settings"] == expected
    assert expected["n_steps"] == 2048 and result.steps[-1] == 4096
    assert result.run.command().endswith(" --defaults --params n_envs:2 normalize:True --label plain")


def test_a_setting_that_is_wrong(tmp_path, capsys):
    command = ["learn", "--envs", "CartPole-v1", "--timesteps", "100", "--algos", "ppo", "--seeds", "0"]
    with pytest.raises(SystemExit, match=r"1 run failed.*\n.*odd CartPole-v1 100 seed 0"):
        main([*command, "--params", "nonsense:1", "--label", "odd", "--out", str(tmp_path / "runs.jsonl")])
    assert "unexpected keyword argument 'nonsense'" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["inf", "nan", "0", "1.5", "many"])
def test_no_number_of_timesteps(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1"):
        learn.number(text)
