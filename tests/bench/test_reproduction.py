"""The commands that train the rows of the tables again."""

import json

from sb3_trpo_ext.bench.__main__ import main


def test_one_command_trains_all_that_have_the_same_seeds(tmp_path, stored):
    for label in ("trpo", "trpo_ext"):
        stored(tmp_path, label, "CartPole-v1", 20_000, [300.0, 310.0])
    stored(tmp_path, "wide", "CartPole-v1", 20_000, [300.0, 310.0], algo="trpo_ext", params={"target_kl": 0.05})
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    start = "python -m sb3_trpo_ext.bench learn --algos"
    assert (
        f"{start} trpo_ext trpo --envs CartPole-v1 --timesteps 20000 --seeds 0 1 && \\\n"
        f"  {start} trpo_ext --envs CartPole-v1 --timesteps 20000 --seeds 0 1 --params target_kl:0.05 --label wide\n"
    ) in (tmp_path / "learning.md").read_text()


def test_a_label_and_an_environment_that_have_to_be_quoted(tmp_path, stored, contents):
    (run,) = stored(tmp_path, "wide", "CartPole-v1", 20_000, [300.0], algo="trpo_ext", params={"note": "it's"})
    document = contents(run.path(tmp_path))
    document["run"] |= {"label": "two words", "environment": "my envs/Hopper-v5"}
    run.path(tmp_path).write_text(json.dumps(document))
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    assert (
        "python -m sb3_trpo_ext.bench learn --algos trpo_ext --envs 'my envs/Hopper-v5' --timesteps 20000 --seeds 0 "
        """--params 'note:it'"'"'s' --label 'two words'\n"""
    ) in (tmp_path / "learning.md").read_text()
