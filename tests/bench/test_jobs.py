"""Many runs, some at a time: resumption and failure. A stand-in takes the place of training."""

import pytest

from sb3_trpo_ext.bench import jobs


def test_failures_are_reported_and_the_rest_goes_on(tmp_path, stand_in, capsys, runs):
    failed = jobs.train_all(runs(0, 1, 3, 4), tmp_path / "out", jobs=2)
    assert set(failed) == {"trpo_ext CartPole-v1 10 seed 1", "trpo_ext CartPole-v1 10 seed 3"}
    printed = capsys.readouterr().out
    assert "Traceback" in printed and "RuntimeError: no luck" in printed
    assert "killed by SIGKILL" in printed
    assert "seed 4: return 2.0, evaluation 3.0, 0.0 min" in printed
    left = sorted(path.name for path in (tmp_path / "out/trpo_ext").iterdir())
    expected = ["CartPole-v1_10_0.json", "CartPole-v1_10_1.log", "CartPole-v1_10_3.log", "CartPole-v1_10_4.json"]
    assert left == expected


def test_finished_runs_are_not_run_again_and_failed_ones_are(tmp_path, stand_in, runs):
    jobs.train_all(runs(0, 1), tmp_path, jobs=1)
    left = tmp_path / "trpo_ext/CartPole-v1_10_0.progress"
    left.touch()
    failed = jobs.train_all(runs(0, 1, 4), tmp_path, jobs=1)
    assert stand_in == [0, 1, 1, 4] and not left.exists()
    assert set(failed) == {"trpo_ext CartPole-v1 10 seed 1"}


def test_a_result_of_other_settings_is_not_taken_for_this_one(tmp_path, stand_in, runs):
    jobs.train_all(runs(0, label="mine", params={"target_kl": 0.1}), tmp_path, jobs=1)
    with pytest.raises(ValueError, match=r"another run.*0\.1.* there, .*0\.2.* now"):
        jobs.train_all(runs(0, label="mine", params={"target_kl": 0.2}), tmp_path, jobs=1)
