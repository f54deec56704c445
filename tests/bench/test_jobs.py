"""Many runs, some at a time: resumption and failure. A stand-in takes the place of training."""

import pytest

from sb3_trpo_ext.bench import jobs
from sb3_trpo_ext.bench.store import read_all


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new/runs.jsonl"


def test_failures_are_reported_and_the_rest_goes_on(out, stand_in, capsys, runs):
    failed = jobs.train_all(runs(0, 1, 3, 4), out, jobs=2)
    assert set(failed) == {"trpo_ext CartPole-v1 10 seed 1", "trpo_ext CartPole-v1 10 seed 3"}
    printed = capsys.readouterr().out
    assert "Traceback" in printed and "RuntimeError: no luck" in printed
    assert "killed by SIGKILL" in printed
    assert "seed 4: return 2.0, evaluation 3.0, 0.0 min" in printed
    assert [one.run.seed for one in read_all([out])] == [0, 4]
    left = sorted(path.name for path in (out.parent / "runs.jsonl.running/trpo_ext").iterdir())
    assert left == ["CartPole-v1_10_1.log", "CartPole-v1_10_3.log"]


def test_finished_runs_are_not_run_again_and_failed_ones_are(out, stand_in, runs):
    jobs.train_all(runs(0, 1), out, jobs=1)
    before = out.read_text()
    failed = jobs.train_all(runs(0, 1, 4), out, jobs=1)
    assert stand_in == [0, 1, 1, 4] and out.read_text().startswith(before)
    assert set(failed) == {"trpo_ext CartPole-v1 10 seed 1"}


def test_a_result_of_other_settings_is_not_taken_for_this_one(out, stand_in, runs):
    jobs.train_all(runs(0, label="mine", params={"target_kl": 0.1}), out, jobs=1)
    with pytest.raises(ValueError, match=r"has another mine CartPole-v1 10 seed 0: .*0\.1.* there, .*0\.2.* now"):
        jobs.train_all(runs(0, label="mine", params={"target_kl": 0.2}), out, jobs=1)


def test_a_folder_in_place_of_a_file(tmp_path, stand_in, runs):
    with pytest.raises(ValueError, match=r"is a folder, and .* such as \S+\.jsonl"):
        jobs.train_all(runs(0), tmp_path, jobs=1)
    assert stand_in == []
