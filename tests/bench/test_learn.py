"""
Training runs in processes of their own: what is written, resumption, failure, Ctrl-C. Most tests put a stand-in in the
place of training; the last ones train CartPole for real.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.bench import learn
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.results import Run, read
from sb3_trpo_ext.bench.run import constructor_settings
from sb3_trpo_ext.bench.suites import MUJOCO, MUJOCO_V5, SCALE, SUITES

# Stands in for training: seed 1 fails, seed 2 takes for ever, seed 3 is killed; the others write a result.
STAND_IN = """
import json, os, signal, sys, time
run, path, progress = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
open(progress, "w").write('{"steps": 1, "return": null}')
print("seed", run["seed"], flush=True)
if run["seed"] == 1:
    raise RuntimeError("no luck")
if run["seed"] == 2:
    time.sleep(600)
if run["seed"] == 3:
    os.kill(os.getpid(), signal.SIGKILL)
curve = {"steps": [5, 10], "returns": [1.0, 2.0], "seconds": [0.5, 1.0]}
json.dump({"run": run, "curve": curve, "evaluation": [3.0]}, open(path, "w"))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Start the stand-in instead of training; returns the seeds that were started."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    seeds = []
    popen = subprocess.Popen

    def start(command, **options):
        if "sb3_trpo_ext.bench.run" not in command:
            return popen(command, **options)
        seeds.append(json.loads(command[3])["seed"])
        return popen([sys.executable, str(script), *command[3:]], **options)

    monkeypatch.setattr(learn.subprocess, "Popen", start)
    monkeypatch.setattr(learn, "POLL", 0.05)
    return seeds


def runs(*seeds, **fields):
    settings = {"algo": "trpo_ext", "environment": "CartPole-v1", "timesteps": 10, "label": "trpo_ext", **fields}
    return [Run(seed=seed, **settings) for seed in seeds]


def test_failures_are_reported_and_the_rest_goes_on(tmp_path, stand_in, capsys):
    failed = learn.train_all(runs(0, 1, 3, 4), tmp_path / "out", jobs=2)
    assert set(failed) == {"trpo_ext CartPole-v1 10 seed 1", "trpo_ext CartPole-v1 10 seed 3"}
    printed = capsys.readouterr().out
    assert "Traceback" in printed and "RuntimeError: no luck" in printed
    assert "killed by SIGKILL" in printed
    assert "seed 4: return 2.0, evaluation 3.0, 0.0 min" in printed
    left = sorted(path.name for path in (tmp_path / "out/trpo_ext").iterdir())
    expected = ["CartPole-v1_10_0.json", "CartPole-v1_10_1.log", "CartPole-v1_10_3.log", "CartPole-v1_10_4.json"]
    assert left == expected


def test_finished_runs_are_not_run_again_and_failed_ones_are(tmp_path, stand_in):
    learn.train_all(runs(0, 1), tmp_path, jobs=1)
    left = tmp_path / "trpo_ext/CartPole-v1_10_0.progress"
    left.touch()
    failed = learn.train_all(runs(0, 1, 4), tmp_path, jobs=1)
    assert stand_in == [0, 1, 1, 4] and not left.exists()
    assert set(failed) == {"trpo_ext CartPole-v1 10 seed 1"}


def test_a_result_of_other_settings_is_not_taken_for_this_one(tmp_path, stand_in):
    learn.train_all(runs(0, label="mine", params={"target_kl": 0.1}), tmp_path, jobs=1)
    with pytest.raises(ValueError, match=r"another run.*0\.1.* there, .*0\.2.* now"):
        learn.train_all(runs(0, label="mine", params={"target_kl": 0.2}), tmp_path, jobs=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_what_runs_and_keeps_what_is_finished(tmp_path, stand_in, number, monkeypatch, capsys):
    started = []
    start = learn.start
    monkeypatch.setattr(learn, "start", lambda run, out: started.append(start(run, out)) or started[-1])

    def interrupt():
        while not (tmp_path / "trpo_ext/CartPole-v1_10_2.progress").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as end:
        learn.execute(runs(4, 2), tmp_path, jobs=1)
    assert end.value.code == 130
    assert "1 of 2 runs are finished and kept" in capsys.readouterr().out
    assert len(started) == 2 and all(one.process.poll() is not None for one in started)
    assert [path.name for path in (tmp_path / "trpo_ext").iterdir()] == ["CartPole-v1_10_4.json"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def really_train(out, *options):
    """The command, run for real on CartPole; returns what it prints."""
    command = ["-m", "sb3_trpo_ext.bench", "learn", "--envs", "CartPole-v1", "--algos", "trpo_ext", "--seeds", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command, "--timesteps", "2e3", *options, "--out", str(out)],
        env=environment, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """With changed settings."""
    out = tmp_path_factory.mktemp("trained")
    return out, really_train(out, "--params", "target_kl:0.03", "normalize:True", "--label", "wide")


def test_a_run_writes_all_that_it_must(trained):
    out, printed = trained
    assert "[1/1]" in printed and "wide CartPole-v1 2k seed 7: return" in printed
    assert [path.name for path in (out / "wide").iterdir()] == ["CartPole-v1_2000_7.json"]
    result = read(out / "wide/CartPole-v1_2000_7.json")
    document = result.document
    assert result.run == Run("trpo_ext", "CartPole-v1", 2000, 7, "wide", {"target_kl": 0.03, "normalize": True})
    assert len(result.steps) == len(result.returns) == len(result.seconds) >= 20
    assert list(result.steps) == sorted(set(result.steps)) and result.steps[-1] == 2048
    assert list(result.seconds) == sorted(result.seconds) and document["wall_seconds"] == result.seconds[-1]
    assert len(result.evaluation) == 20
    # Rewards are normalised for the algorithm, not in what is written: whole numbers, from 8 on.
    assert 8 <= min(result.returns) and all(one == int(one) >= 8 for one in result.evaluation)
    assert document["zoo_settings"]["target_kl"] == document["all_settings"]["target_kl"] == 0.03
    assert document["all_settings"]["n_steps"] == 512 and "cg_max_steps" in document["all_settings"]
    assert {"commit", "machine"} <= document.keys() and {"torch", "gymnasium", "sb3-contrib"} <= document[
        "versions"
    ].keys()
    assert document["command"] == result.run.command()


def test_the_same_command_again_trains_nothing(trained):
    out, _ = trained
    before = (out / "wide/CartPole-v1_2000_7.json").stat().st_mtime_ns
    run = read(out / "wide/CartPole-v1_2000_7.json").run
    arguments = run.command().split("bench ")[1].replace("'", "").split()
    main([*arguments, "--out", str(out)])
    assert (out / "wide/CartPole-v1_2000_7.json").stat().st_mtime_ns == before


def test_defaults_are_those_of_the_constructor(tmp_path):
    really_train(tmp_path, "--defaults", "--params", "n_envs:2", "normalize:True", "--label", "plain")
    result = read(tmp_path / "plain/CartPole-v1_2000_7.json")
    zoo = {"n_envs": 2, "n_timesteps": 2000, "normalize": True, "policy": "MlpPolicy"}
    assert result.document["zoo_settings"] == zoo
    expected = constructor_settings(TRPO("MlpPolicy", "CartPole-v1", device="cpu", seed=7, verbose=1))
    assert result.document["all_settings"] == expected
    # The shipped settings have 512 steps in one environment.
    assert expected["n_steps"] == 2048 and result.steps[-1] == 4096
    assert result.run.command().endswith(" --defaults --params n_envs:2 normalize:True --label plain")


def test_a_setting_that_is_wrong(tmp_path, capsys):
    command = ["learn", "--envs", "CartPole-v1", "--timesteps", "100", "--algos", "ppo", "--seeds", "0"]
    with pytest.raises(SystemExit, match=r"1 run failed.*\n.*odd CartPole-v1 100 seed 0"):
        main([*command, "--params", "nonsense:1", "--label", "odd", "--out", str(tmp_path)])
    assert "unexpected keyword argument 'nonsense'" in capsys.readouterr().out


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
    assert len(learn.plan(options)) == 1


@pytest.mark.parametrize("text", ["inf", "nan", "0", "1.5", "many"])
def test_no_number_of_timesteps(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1"):
        learn.number(text)


def test_parameters_are_read_as_the_zoo_reads_them():
    texts = ["n_steps:512", "normalize:True", "learning_rate:lin_1e-3", "policy_kwargs:dict(log_std_init=-1, a='b:c')"]
    assert learn.parameters(texts) == {
        "n_steps": 512,
        "normalize": True,
        "learning_rate": "lin_1e-3",
        "policy_kwargs": "dict(log_std_init=-1, a='b:c')",
    }


def test_suites():
    assert {task.environment for suite in SUITES.values() for task in suite} == SCALE.keys()
    assert all(random < good for random, good in SCALE.values())
    assert len(MUJOCO) == 6 and set(SUITES["mujoco"]) <= set(SUITES["all"])
    assert len(MUJOCO_V5) == 8 and not set(MUJOCO_V5) & set(SUITES["all"])
