"""Files of finished runs: what is none is refused."""

import json

import pytest

from sb3_trpo_ext.bench.__main__ import main


def test_a_run_in_two_folders(tmp_path, stored):
    for name in "ab":
        stored(tmp_path / name, "trpo_ext", "CartPole-v1", 1000, [1.0])
    with pytest.raises(SystemExit, match=r"seed 0 is there twice: \S+a/trpo_ext\S+ and \S+b/trpo_ext"):
        main(["report", "--results", str(tmp_path / "a"), str(tmp_path / "b")])


@pytest.mark.parametrize("part, value", [("steps", []), ("returns", [1.0]), ("seconds", [None, None])])
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
