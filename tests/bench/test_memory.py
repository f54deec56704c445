"""Peak memory of both sides."""

import pytest
import torch

from sb3_trpo_ext.bench.memory import PeakMemory, peak_memory


def test_memory_ratios():
    memory = PeakMemory("case", contrib=500.0, ours=400.0, imports=200.0)
    assert memory.ratio == pytest.approx(0.8)
    assert memory.ratio_beyond_imports == pytest.approx(2 / 3)
    assert memory.document() == {
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
    memory = peak_memory("update/64-64/2048")
    assert 50 < memory.imports < memory.ours < 900
    assert memory.imports < memory.contrib < 900
    del ballast
