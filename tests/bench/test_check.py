"""The comparison with stored results: passes on the same, fails on less."""

import os
import subprocess
import sys

import pytest

from sb3_trpo_ext.bench import check
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.store import append, read_all

SCORES = [100.0, 120.0, 130.0, 140.0, 160.0]


@pytest.fixture
def judged(tmp_path, stored):
    """The verdict on fresh CartPole returns."""
    stored(tmp_path / "stored", "trpo_ext", "CartPole-v1", 20_000, SCORES)

    def judge(fresh):
        stored(tmp_path / "fresh", "trpo_ext", "CartPole-v1", 20_000, fresh)
        return check.judge(read_all([tmp_path / "stored"]), read_all([tmp_path / "fresh"]))

    return judge


def test_the_same_returns_pass(judged):
    verdict = judged(SCORES)
    estimate, fresh = verdict.rows["CartPole-v1 20k"]
    assert verdict.passed and estimate.value == fresh == 130.0


def test_better_returns_pass(judged):
    assert judged([score + 200 for score in SCORES]).passed


def test_returns_below_the_interval_fail(judged, capsys):
    verdict = judged([score - 60 for score in SCORES])
    assert not verdict.passed
    check.show(verdict)
    assert "below" in capsys.readouterr().out


def test_a_task_that_is_no_longer_learnt_fails(tmp_path, stored):
    """Also where all of its runs are lower on the common scale than the other task's."""
    cartpole, pendulum = [200.0 + seed for seed in range(10)], [-280.0 - seed for seed in range(10)]
    for folder, finals in (("stored", cartpole), ("fresh", [20.0] * 5 + cartpole[5:])):
        stored(tmp_path / folder, "trpo_ext", "CartPole-v1", 20_000, finals)
        stored(tmp_path / folder, "trpo_ext", "Pendulum-v1", 40_000, pendulum)
    before, now = (read_all([tmp_path / folder]) for folder in ("stored", "fresh"))
    assert check.judge(before, before).passed
    assert not check.judge(before, now).passed


def test_results_that_are_not_fresh(tmp_path, stored, monkeypatch):
    stored(tmp_path / "stored", "trpo_ext", "CartPole-v1", 20_000, SCORES)
    for result in read_all([tmp_path / "stored"]):
        append(tmp_path / "fresh.jsonl", result.document)
    command = ["check", "--stored", str(tmp_path / "stored"), "--out"]
    with pytest.raises(SystemExit, match="is the file of the stored results"):
        main([*command, str(tmp_path / "stored/../stored")])
    with pytest.raises(SystemExit, match=r"seed 0 in \S+ is of commit 0123456789ab, the code here of"):
        main([*command, str(tmp_path / "fresh.jsonl")])
    # Of this code they are what an interrupted check goes on from.
    monkeypatch.setattr(check, "commit", lambda: "0123456789ab")
    main([*command, str(tmp_path / "fresh.jsonl")])


def test_a_task_without_a_scale(tmp_path, stored):
    stored(tmp_path, "trpo_ext", "Pusher-v5", 1000, [1.0])
    with pytest.raises(SystemExit, match=r"No scale to average by.*: Pusher-v5"):
        main(["check", "--stored", str(tmp_path)])


def test_nothing_stored(tmp_path, stored):
    with pytest.raises(SystemExit, match="no finished runs"):
        main(["check", "--stored", str(tmp_path)])
    stored(tmp_path, "ppo", "CartPole-v1", 1000, [1.0])
    with pytest.raises(SystemExit, match="None of the results"):
        main(["check", "--stored", str(tmp_path)])


@pytest.mark.slow
def test_check_passes_on_stored_results_and_fails_on_a_crippled_setting(tmp_path):
    def bench(*arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "sb3_trpo_ext.bench", *arguments]
        return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=600)

    small = ("--envs", "CartPole-v1", "--timesteps", "8000", "--algos", "trpo_ext", "--seeds", "0", "1", "2")
    stored = str(tmp_path / "runs.jsonl")
    trained = bench("learn", *small, "--out", stored)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    same = bench("check", "--stored", stored)
    assert same.returncode == 0, same.stdout + same.stderr
    assert "Not below the stored interval" in same.stdout
    # A trust region so small that nothing is learnt.
    crippled = bench("check", "--stored", stored, "--params", "target_kl:1e-9")
    assert crippled.returncode == 1
    assert "trpo_ext learns less" in crippled.stderr
