"""The command: its figures, files and last line, and what it says when something is missing."""

import json
import socket
import subprocess
import sys
import time

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces

from sb3_trpo_ext.bench import provenance
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.cases import Case, RandomEnv
from sb3_trpo_ext.bench.memory import PeakMemory, peak_memory
from sb3_trpo_ext.bench.speed import Comparison, Result, comparisons, measure, ratios


def tiny(name="tiny", make=None, **fields):
    return Case(
        name,
        make or (lambda: RandomEnv(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2))),
        net_arch=(4,),
        samples=16,
        **fields,
    )


def test_ratios_are_taken_turn_by_turn():
    # The machine was ten times slower in the last turn: no reason to change the verdict.
    summary = Comparison(contrib=(3.0, 8.0, 30.0), ours=(1.0, 2.0, 10.0)).summary()
    assert summary == {
        "ratio": 3.0,
        "lowest": 3.0,
        "highest": 4.0,
        "contrib_seconds": 8.0,
        "ours_seconds": 2.0,
    }


def test_turns_become_parts():
    result = comparisons([{"CG": 1.0, "critic": 2.0}, {"CG": 3.0, "critic": 4.0}], [{"CG": 0.5, "critic": 1.0}] * 2)
    assert result == {"CG": Comparison((1.0, 3.0), (0.5, 0.5)), "critic": Comparison((2.0, 4.0), (1.0, 1.0))}


def test_time_over_the_environments_own():
    parts = {"rollout": Comparison((9.0,), (3.0,)), "end to end": Comparison((9.0,), (4.0,))}
    result = Result("HalfCheetah", 1, 100, parts, (15,), (2.0,), {})
    assert result.over_environment() == {"rollout": 1.5, "end to end": 2.0}
    assert result.document()["environment_microseconds_per_step"] == pytest.approx(20_000)


def test_memory_ratios():
    memory = PeakMemory("case", contrib=500.0, ours=400.0, imports=200.0)
    assert memory.ratio == pytest.approx(0.8)
    assert memory.ratio_beyond_imports == pytest.approx(2 / 3)


def test_measures_a_tiny_case_and_puts_the_threads_back():
    shown = []
    before = torch.get_num_threads()
    results, skipped = measure([tiny()], [1, 2], repeats=2, show=shown.append)
    assert torch.get_num_threads() == before
    assert [result.label for result in results] == ["tiny/1env/4/16/1thread", "tiny/1env/4/16/2thread"]
    assert (shown, skipped) == (results, {})
    assert all(len(comparison.ours) == 2 for comparison in results[0].parts.values())


@pytest.mark.parametrize("error", [gym.error.DependencyNotInstalled("no"), ModuleNotFoundError("no")])
def test_a_missing_package_skips_the_case_and_names_the_extra(error):
    def fail():
        raise error

    results, skipped = measure([tiny("lander", fail, extra="box2d"), tiny()], [1], 1, lambda result: None)
    assert skipped == {"lander/1env/4/16": "it needs the box2d extra: pip install '.[box2d]' in a checkout"}
    assert len(results) == 1


def test_no_case_begins_when_the_time_is_over():
    results, skipped = measure([tiny()], [1], 1, lambda result: None, last_start=time.perf_counter() - 1)
    assert results == []
    assert "--quick" in skipped["tiny/1env/4/16"]


def test_writes_figures_chart_and_last_line(tmp_path, capsys):
    main(["speed", "--cases", "dict/4", "update/64-64/2048", "--repeats=1", "--threads", "1", "--out", str(tmp_path)])
    text = (tmp_path / "speed.json").read_text()
    document = json.loads(text)
    assert document["command"] == (
        "python -m sb3_trpo_ext.bench speed --cases dict/4 update/64-64/2048 --repeats=1 --threads 1"
    )
    assert {"commit", "versions", "machine", "load_average", "repeats", "seed", "skipped"} <= document.keys()
    assert socket.gethostname() not in text
    assert str(tmp_path) not in text
    cases = {result["case"]: result for result in document["results"]}
    assert list(cases) == ["dict/4env/64-64/2048", "update/64-64/2048", "update/64-64/2048/curvature-thinned-10"]
    assert cases["update/64-64/2048/curvature-thinned-10"]["settings"]["curvature_sampling_factor"] == 10
    for result in cases.values():
        assert (result["threads"], result["samples"], result["turns"]) == (1, 2048, 1)
        assert len(result["cg_steps"]) == 1
        for summary in result["parts"].values():
            assert 0 < summary["lowest"] <= summary["ratio"] <= summary["highest"]
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert json.loads(last) == ratios(document)
    assert json.loads(last)["dict/4env/64-64/2048/1thread"]["end to end"] > 0


def test_lists_the_cases(capsys):
    main(["speed", "--list", "--cases", "hopper"])
    lines = capsys.readouterr().out.split()
    assert "Hopper-v5/4env/256-256/2048" in lines
    assert all("Hopper" in line for line in lines)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--cases", "Hoper"], "--cases Hoper is in the name of no case. There are: HalfCheetah"),
        (["--repeats", "0"], "--repeats: must be a whole number from 1, got '0'"),
        (["--threads", "one"], "--threads: must be a whole number from 1, got 'one'"),
    ],
)
def test_wrong_options_are_explained(options, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["speed", *options])
    assert message in str(exit_.value) + capsys.readouterr().err


def test_without_matplotlib_names_the_extra():
    code = "import sys; sys.modules['matplotlib'] = None; from sb3_trpo_ext.bench.__main__ import main; main(['speed'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip().endswith(
        "The benchmark needs matplotlib, which is missing: pip install '.[zoo,bench]' in a checkout"
    )


def test_the_package_does_not_import_the_benchmark():
    code = (
        "import sys, sb3_trpo_ext; print([n for n in sys.modules if n.split('.')[0] in ('sb3_contrib', 'matplotlib')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_busy_machine_is_warned_about():
    with pytest.warns(UserWarning, match=r"load average is 1\.5"):
        provenance.warn_if_busy(1.5)


def test_an_idle_machine_is_not_warned_about(recwarn):
    provenance.warn_if_busy(0.1)
    provenance.warn_if_busy(None)
    assert not recwarn.list


@pytest.mark.parametrize("out", [["--out", "/home/somebody/results"], ["--out=/home/somebody/results"]])
def test_the_command_names_no_folder(out):
    assert provenance.command_line(["speed", *out, "--quick"]) == "python -m sb3_trpo_ext.bench speed --quick"


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process_alone():
    ballast = torch.ones(2**28)  # 1 GB here must not be counted there
    memory = peak_memory("update/64-64/2048")
    assert 50 < memory.imports < memory.ours < 900
    assert memory.imports < memory.contrib < 900
    del ballast


@pytest.mark.slow
def test_quick_takes_less_than_a_minute(tmp_path):
    command = [sys.executable, "-m", "sb3_trpo_ext.bench", "speed", "--quick", "--out", str(tmp_path)]
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 60
    last = json.loads(result.stdout.strip().splitlines()[-1])
    assert last["CartPole-v1/1env/64-64/2048/1thread"]["end to end"] > 1
    assert last["update/64-64/2048/1thread"]["one Fisher product"] > 1
