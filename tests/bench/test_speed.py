"""The command: its figures, files and progress, and what it says when an option is wrong."""

import argparse
import json
import socket
import subprocess
import sys
import time

import pytest
import torch

from sb3_trpo_ext.bench import speed, turns
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.cases import BESIDE_GPU, GPU
from sb3_trpo_ext.bench.measurement import Measurement, Timing
from sb3_trpo_ext.bench.memory import PeakMemory
from sb3_trpo_ext.bench.speed import add_arguments, measure_memory, ratios, settings_of, show_measurement


def test_writes_figures_ratios_and_chart(tmp_path, capsys):
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
    printed = capsys.readouterr().out
    assert "[1/2] dict/4env/64-64/2048: 1 turn after one that warms up" in printed
    assert "[2/2] update/64-64/2048: 1 turn after one that warms up, about " in printed
    written = json.loads((tmp_path / "ratios.json").read_text())
    assert written == ratios(document)
    assert written["dict/4env/64-64/2048/1thread"]["end to end"] > 0


def test_peak_memory_is_taken_of_the_cases_that_are_listed_for_it(monkeypatch, capsys):
    monkeypatch.setattr(speed, "peak_memory", lambda name: PeakMemory(name, contrib=500.0, ours=400.0, imports=200.0))
    listed = "image/4env/512"
    measured, skipped = measure_memory(["CartPole-v1/1env/64-64/2048", listed], last_start=float("inf"))
    assert ([one.case for one in measured], skipped) == ([listed], {})
    assert f"{listed}, peak memory: sb3-contrib 500 MB, ours 400 MB" in capsys.readouterr().out
    measured, skipped = measure_memory([listed], last_start=time.perf_counter() - 1)
    assert measured == [] and "--quick" in skipped[f"{listed}, peak memory"]


def test_a_printed_measurement(capsys):
    parts = {"rollout": Timing((9.0,), (3.0,)), "end to end": Timing((9.0,), (4.0,))}
    learned = {"ours": (3.0,), "SB3's PPO": (12.0,)}
    show_measurement(Measurement("HalfCheetah", 1, 100, parts, (15,), (2.0,), {}, "cpu", learned))
    printed = " ".join(capsys.readouterr().out.split())
    assert "HalfCheetah, 1 thread(s), median of 1 turns" in printed
    assert "the environment alone takes 20000.0 µs a step; times that ours 1.50 30000.0 µs a step" in printed
    assert "sb3-contrib 3.00 times as long SB3's PPO 6.00 120000.0 µs a step, sb3-contrib 0.75 times" in printed
    assert "same work, rollout 1.50 same work, end to end 2.00" in printed
    show_measurement(Measurement("synthetic", 1, 100, parts, (15,), (), {}))
    assert "environment alone" not in capsys.readouterr().out


def settings_for(*options, cases=GPU):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return [(one.name, one.threads) for one in settings_of(parser.parse_args(options), cases)]


def test_a_gpu_gets_all_cases_and_the_cpu_beside_it_few(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    expected = [(f"{case.name}/cuda", 1) for case in GPU] + [(name, n) for n in (1, 8) for name in BESIDE_GPU]
    assert settings_for("--gpu", "--threads", "1", "8") == expected
    assert settings_for("--gpu", "--device", "cpu") == [(case.name, 1) for case in GPU]


def test_devices_are_measured_one_after_the_other(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    name = GPU[0].name
    assert settings_for(cases=GPU[:1]) == [(name, 1), (name, 2)]
    assert settings_for("--device", "cuda", "cpu", cases=GPU[:1]) == [(f"{name}/cuda", 1), (name, 1), (name, 2)]


def test_a_device_that_is_not_there_is_named_before_anything_begins(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cuda: torch finds no CUDA here"):
        main(["speed", "--device", "cuda"])


def test_what_was_measured_is_written_whatever_happens_later(tmp_path, monkeypatch):
    compare = turns.compare_updates

    def breaks(setting, *arguments):
        if setting.case.samples == 8192:
            raise KeyboardInterrupt
        return compare(setting, *arguments)

    monkeypatch.setattr(turns, "compare_updates", breaks)
    with pytest.raises(KeyboardInterrupt):
        main(["speed", "--gpu", "--device", "cpu", "--repeats", "1", "--out", str(tmp_path)])
    document = json.loads((tmp_path / "speed.json").read_text())
    cases = [result["case"] for result in document["results"]]
    assert cases == ["whole-update/64-64/2048", "whole-update/64-64/2048/defaults"]


def test_seconds_end_the_run(tmp_path):
    main(["speed", "--cases", "update", "--threads", "1", "--repeats", "9", "--seconds", "1", "--out", str(tmp_path)])
    document = json.loads((tmp_path / "speed.json").read_text())
    assert document["results"][0]["turns"] < 9
    assert "more --seconds" in document["skipped"]["update/256-256/65536"]


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
        (["--seconds", "0"], "--seconds: must be a whole number from 1, got '0'"),
        (["--gpu", "--quick"], "argument --quick: not allowed with argument --gpu"),
        (["--threads", "one"], "--threads: must be a whole number from 1, got 'one'"),
    ],
)
def test_wrong_options_are_explained(options, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["speed", *options])
    assert message in str(exit_.value) + capsys.readouterr().err


@pytest.mark.slow
def test_quick_takes_less_than_a_minute(tmp_path):
    command = [sys.executable, "-m", "sb3_trpo_ext.bench", "speed", "--quick", "--out", str(tmp_path)]
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 60
    last = json.loads((tmp_path / "ratios.json").read_text())
    assert last["CartPole-v1/1env/64-64/2048/1thread"]["end to end"] > 1
    assert last["update/64-64/2048/1thread"]["one Fisher product"] > 1
