"""What one rank measures."""

import json
import os
import subprocess
import sys

from sb3_trpo_ext.bench.scale_rank import Task, measure


def test_a_process_by_itself(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    measured = measure(Task("CartPole-v1", n_envs=2, n_steps=64, iterations=3))
    assert measured.steps_per_second > 0
    assert 0 < measured.rollout_seconds < 128 / measured.steps_per_second
    assert measured.messages == measured.bytes == 0
    assert [steps for steps, _ in measured.curve] == [128 * k for k in range(1, 6)]


def test_it_prints_what_it_measured():
    task = {"environment": "CartPole-v1", "n_envs": 1, "n_steps": 64, "iterations": 1, "seed": 0}
    ended = subprocess.run(
        [sys.executable, "-m", "sb3_trpo_ext.bench.scale_rank", json.dumps(task)],
        env={**os.environ, "WORLD_SIZE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    printed = json.loads(ended.stdout.splitlines()[-1])
    assert printed["steps_per_second"] > 0 and printed["formula"] > 0
