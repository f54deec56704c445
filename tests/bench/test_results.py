"""Runs and the files of their results: where they lie, what is read, what is refused."""

import argparse
import json
import shlex

import pytest

from sb3_trpo_ext.bench import learn
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.plan import parameters
from sb3_trpo_ext.bench.results import Run, as_typed, read, write
from sb3_trpo_ext.bench.store import read_all


def test_a_run_in_two_folders(tmp_path, stored):
    for name in "ab":
        stored(tmp_path / name, "trpo_ext", "CartPole-v1", 1000, [1.0])
    with pytest.raises(SystemExit, match=r"seed 0 is there twice: \S+a/trpo_ext\S+ and \S+b/trpo_ext"):
        main(["report", "--results", str(tmp_path / "a"), str(tmp_path / "b")])


@pytest.mark.parametrize(
    "part, value", [("steps", []), ("returns", [1.0]), ("seconds", [None, None]), ("processor_seconds", [1.0])]
)
def test_a_curve_that_is_none(tmp_path, stored, contents, part, value):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [1.0])
    document = contents(run.path(tmp_path))
    document["curve"][part] = value
    run.path(tmp_path).write_text(json.dumps(document))
    with pytest.raises(SystemExit, match="is no result"):
        main(["report", "--results", str(tmp_path)])


def test_a_file_that_is_no_result(tmp_path):
    (tmp_path / "trpo").mkdir()
    (tmp_path / "trpo/x.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"x\.json is no result"):
        main(["report", "--results", str(tmp_path)])


def test_what_is_written_is_read(tmp_path, stored):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [8.0])
    result = read(run.path(tmp_path))
    assert (result.run, result.steps, result.returns) == (run, (500, 1000), (4.0, 8.0))
    assert (result.final, result.evaluated, result.minutes, result.is_timed) == (8.0, 9.0, 1.0, True)
    assert result.origin is None and result.document["commit"] == "0123456789ab"


def test_a_run_that_stored_the_processors_time_is_timed_by_it(tmp_path, stored, contents):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [8.0])
    document = contents(run.path(tmp_path))
    document["curve"]["processor_seconds"] = [10.0, 30.0]
    run.path(tmp_path).write_text(json.dumps(document))
    result = read(run.path(tmp_path))
    assert result.seconds == (10.0, 30.0) and result.minutes == 0.5


def test_where_only_the_whole_processor_time_is_known_the_curve_is_in_its_proportion(tmp_path, stored, contents):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [8.0])
    document = contents(run.path(tmp_path)) | {"wall_seconds": 60.0, "processor_seconds": 45.0}
    run.path(tmp_path).write_text(json.dumps(document))
    assert read(run.path(tmp_path)).seconds == (22.5, 45.0)


def test_a_file_has_a_line_for_each_key_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "new/x.json", {"a": [1, 2], "b": None})
    assert (tmp_path / "new/x.json").read_text() == '{\n"a": [1, 2],\n"b": null\n}\n'
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.json"]


def test_results_come_in_order_of_label_task_and_seed(tmp_path, stored):
    for label in ("trpo", "ppo"):
        stored(tmp_path, label, "CartPole-v1", 1000, [1.0] * 11)
    found = [(one.run.label, one.run.seed) for one in read_all([tmp_path])]
    assert found == [(label, seed) for label in ("ppo", "trpo") for seed in range(11)]


def test_the_command_of_a_run_and_its_file(tmp_path):
    run = Run("trpo_ext", "ALE/Pong-v5", 1000, 3, "wide", {"policy_kwargs": "dict(a=1)"}, defaults=True)
    assert run.path(tmp_path) == tmp_path / "wide/ALE-Pong-v5_1000_3.json"
    assert run.command() == (
        "python -m sb3_trpo_ext.bench learn --algos trpo_ext --envs ALE/Pong-v5 --timesteps 1000 --seeds 3 --defaults "
        "--params 'policy_kwargs:dict(a=1)' --label wide"
    )
    plain = Run("ppo", "CartPole-v1", 1000, 3, "ppo")
    assert plain.command([0, 1], ["ppo", "a2c"]) == (
        "python -m sb3_trpo_ext.bench learn --algos ppo a2c --envs CartPole-v1 --timesteps 1000 --seeds 0 1"
    )


@pytest.mark.parametrize("odd", ["two words", "it's", 'a "b"', "$HOME `ls` \\ *;#", "größe", "-x", "--seeds"])
def test_a_command_can_be_pasted_whatever_is_in_it(odd):
    params = {
        "text": odd,
        "number": 1,
        "text of a number": "1",
        "list": [odd, None],
        "empty": "",
        "kwargs": "dict(a=1)",
    }
    run = Run("trpo_ext", odd.strip("-"), 1000, -3, odd, params, defaults=True)
    parser = argparse.ArgumentParser()
    learn.add_arguments(parser)
    words = shlex.split(run.command([-3, 4]))
    assert words[:4] == ["python", "-m", "sb3_trpo_ext.bench", "learn"]
    options = parser.parse_args(words[4:])
    assert (options.algos, options.envs, options.timesteps, options.seeds) == (
        ["trpo_ext"],
        [odd.strip("-")],
        1000,
        [-3, 4],
    )
    assert (options.label, options.defaults, parameters(options.params)) == (odd, True, params)


@pytest.mark.parametrize("value", ["None", " 1", "[1", "'a'", "a\nb", "1e-3", 1e-05, True, None, {"a": [1.0]}])
def test_a_setting_is_read_as_it_was(value):
    assert parameters([as_typed("a", value)]) == {"a": value}
