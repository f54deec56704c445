"""Peak memory of both sides."""

import json

import pytest
import torch

from sb3_trpo_ext.bench import memory
from sb3_trpo_ext.bench.memory import PeakMemory, peak_memory


def test_memory_ratios():
    measured = PeakMemory("case", contrib=500.0, ours=400.0, imports=200.0)
    assert measured.ratio == pytest.approx(0.8)
    assert measured.ratio_beyond_imports == pytest.approx(2 / 3)
    assert measured.document() == {
        "case": "case",
        "contrib": 500.0,
        "ours": 400.0,
        "imports": 200.0,
        "ratio": 0.8,
        "ratio_beyond_imports": 0.667,
    }


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process_alone():
    ballast = torch.ones(2**28)  # 1 GB here must not be counted there
    measured = peak_memory("update/64-64/2048")
    assert 50 < measured.imports < measured.ours < 900
    assert measured.imports < measured.contrib < 900
    del ballast


def test_without_a_side_all_are_measured(monkeypatch, capsys):
    monkeypatch.setattr(memory, "peak_memory", lambda name: PeakMemory(name, contrib=500.0, ours=400.0, imports=200.0))
    memory.main("update/64-64/2048")
    assert json.loads(capsys.readouterr().out)["ratio"] == 0.8
