"""What the others do when a rank is killed, differs or was constructed otherwise; going on after a restart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sb3_trpo_ext.common.checkpoint import newest
from tests.processes import ROOT, free_port, launch

SECONDS = 30.0


@pytest.fixture
def run(tmp_path):
    return lambda program: launch(program, 2, tmp_path)


@pytest.mark.parametrize("where", ["rollout", "update", "saving"])
def test_a_killed_rank_is_named_and_the_others_stop(where, run):
    answers = run(f"killed in {where}")
    survivor, killed = answers.of_ranks
    assert killed is None
    assert survivor["error"].startswith("LostRank: Rank 1 of 2 has ended")
    assert survivor["at"] - survivor["started"] < SECONDS
    assert "Rank 1 of 2 has ended in the midst of training, so rank 0 stops too." in answers.errors[0]


def test_an_unfinished_checkpoint_is_not_taken(run):
    answers = run("killed in saving")
    folder = answers.folder / "checkpoints"
    assert list(folder.glob(".unfinished-*"))
    assert newest(folder).name == "checkpoint-000000000002"


def test_ranks_that_differ_are_told_apart(run):
    text = "Rank 1 and rank 0 no longer have the same policy: they differ in policy.action_net.bias."
    answers = run("different").of_ranks
    said = [answer.startswith(text) for answer in answers]
    # Whoever sees it first may have stopped the other before that has said it too.
    assert any(said) and all(
        one or "has ended in the midst" in answer for one, answer in zip(said, answers, strict=True)
    )


def test_ranks_with_other_settings_are_told_which(run):
    for answer in run("other settings").of_ranks:
        assert answer == "ValueError: n_critic_steps must be the same on all ranks, got 3 on rank 0, 4 on rank 1."


def test_ranks_with_other_networks_are_refused(run):
    answers = run("unlike").of_ranks
    assert answers[1].startswith("ValueError: Rank 1 and rank 0 have a policy of different shapes.")
    assert answers[0].startswith("LostRank: Rank 1 of 2 has ended")


def torchrun(program: str, folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", "tests.programs", program, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


def answers_in(folder: Path) -> list[dict]:
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_a_killed_and_resumed_training_is_that_of_one_that_was_not(tmp_path, bits):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    one = torchrun("resumable", whole, "--standalone", "--nproc-per-node=2")
    other = torchrun("resumable", cut, "--standalone", "--nproc-per-node=2", "--max-restarts=1", DIES="1")
    assert one.returncode == 0, one.stderr
    assert other.returncode == 0, other.stderr
    assert "Rank 1 of 2 has ended in the midst of training" in other.stderr
    for expected, got in zip(answers_in(whole), answers_in(cut), strict=True):
        assert bits(got["policy"]) == bits(expected["policy"])
        assert got["updates"] == expected["updates"] == 10
        # It died in its seventh rollout, and that is the first that was collected again.
        assert got["returns"] == {n: value for n, value in expected["returns"].items() if n > 6 * 128}
    assert len(list((cut / "checkpoints").iterdir())) == 3


def test_two_launchers_meet(tmp_path):
    port = str(free_port())
    launchers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}"),
                *("--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"),
                *("-m", "tests.programs", "resumable", str(tmp_path)),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    errors = [launcher.communicate(timeout=240)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], errors
    one, other = answers_in(tmp_path)
    assert one["updates"] == other["updates"] == 10
    assert all(torch.equal(one["policy"][name], other["policy"][name]) for name in one["policy"])
