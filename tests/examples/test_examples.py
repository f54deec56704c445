"""Each script of examples/ runs, with a small budget, and does what it says."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path) -> Run:
    """Start a script in a temporary folder, with one thread: ``run("saving", 2048, "--both")`` is what it printed."""

    def start(name: str, timesteps: int, *options: str) -> str:
        command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--timesteps", str(timesteps), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert name.startswith("export_") or done.stderr == ""  # a warning would puzzle whoever tries it
        return done.stdout

    return start


def test_an_environment_of_ones_own_is_learnt(run):
    printed = run("custom_environment", 8192)
    before, after = map(float, re.findall(r"Return \w+ training: (\S+) ±", printed))
    assert after > before


@pytest.mark.parametrize("both", [False, True])
def test_training_goes_on_from_files(both, run, tmp_path):
    printed = run("saving", 2048, *["--both"] * both)
    assert f"The policy normalises observations: {not both}" in printed
    assert "Trained for 4096 steps in all" in printed and "Return: " in printed
    assert {path.name for path in tmp_path.iterdir()} == {"model.zip", "vec_normalize.pkl"}


def test_diagnostics_are_kept_and_drawn(run, tmp_path):
    printed = run("diagnostics", 4096)
    assert printed.startswith("4 updates are drawn in diagnostics.png.")
    assert "train/kl_divergence_loss" in printed and "train/update_status" in printed
    assert (tmp_path / "diagnostics.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_of_sb3_contrib_acts_alike_and_goes_on(run):
    printed = run("from_sb3_contrib", 2048)
    assert "Loaded with kl_reduction=mean, critic=adam, target_kl=0.01" in printed
    (theirs,), (loaded,) = (re.findall(f"{name}, 2048 steps: (.*)", printed) for name in ("contrib's", "as loaded"))
    assert theirs == loaded and "Ours, 4096 steps: " in printed


def test_a_cloned_policy_finds_the_flag_and_trains_on(run):
    printed = run("behaviour_cloning", 4096)
    before, cloned, after = map(float, re.findall(r"Return .*: (\S+) ±", printed))
    assert before < 10 and cloned > 80 and after > 80


def test_exported_policies_act_as_the_model_does(run, tmp_path):
    printed = run("export_policy", 2048)
    differences = dict(re.findall(r"(\w+): largest difference of 500 actions is (\S+)", printed))
    assert max(map(float, differences.values())) < 1e-5
    if all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        assert set(differences) == {"TorchScript", "ONNX"}
        assert {path.name for path in tmp_path.iterdir()} == {"policy.pt", "policy.onnx"}
    else:
        assert set(differences) == {"TorchScript"} and re.search(r"ONNX is left out.*: pip install onnx", printed)


def test_an_exported_memory_goes_on_as_the_models_does(run):
    printed = run("export_memory", 1024)
    differences = dict(re.findall(r"(\w+): the same actions in 50 steps, states differ by (\S+) at most", printed))
    assert max(map(float, differences.values())) < 1e-5
    has_onnx = all(map(find_spec, ("onnx", "onnxscript", "onnxruntime")))
    assert set(differences) == ({"TorchScript", "ONNX"} if has_onnx else {"TorchScript"})


def test_the_replay_buffer_is_saved_and_loaded(run):
    printed = run("acer_buffer", 2400)
    assert "Saved after 2400 steps, 2400 of them in the buffer" in printed
    assert "Loaded the model: 0 steps in the buffer" in printed
    assert "Loaded the buffer: 2400 steps in the buffer" in printed
    assert "Went on to 4800 steps" in printed


def test_every_script_is_listed_and_tested():
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    listed = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == names
    tested = re.findall(r'run\("(\w+)"', Path(__file__).read_text(encoding="utf-8"))
    assert set(names) <= set(tested)


def test_a_board_game_is_played_by_its_rules(run, tmp_path):
    printed = run("board_game", 512, "--game", "tictactoe", "--out", "results.jsonl")
    assert re.findall(r"(\w+), seed 0: mean result (?:-?\d\.\d\d) of 200 games", printed) == ["MaskableTRPO", "TRPO"]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
