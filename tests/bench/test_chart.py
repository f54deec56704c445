"""The chart of the speed benchmark."""

import pytest

from sb3_trpo_ext.bench import chart
from sb3_trpo_ext.bench.measurement import Measurement, Timing

DOCUMENT = {
    "command": "python -m sb3_trpo_ext.bench speed",
    "commit": "0123456789ab",
    "versions": {"sb3-contrib": "2.9", "torch": "2.8"},
    "machine": {"cpu": "a processor", "cores": 2},
    "load_average": 0.1,
}
WHOLE = ["whole-update/64-64/2048", "whole-update/64-64/2048/defaults"]
TRAINING = "CartPole-v1/1env/64-64/2048"
UPDATES = ["update/64-64/4096", "update/64-64/2048", "update/64-64/2048/thinned", "update/256-256/2048"]


def measured(case, threads):
    parts = dict.fromkeys(chart.COLOURS, Timing((4.0, 8.0), (2.0, 1.0)))
    return Measurement(case, threads, 2048, parts, (15, 15), (), {}).document()


@pytest.mark.parametrize("cases", [[TRAINING, *UPDATES], [TRAINING], UPDATES], ids=["all", "training", "updates"])
@pytest.mark.parametrize("threads", [[1], [1, 2]])
def test_a_chart_of_what_was_measured(tmp_path, cases, threads):
    results = [measured(case, count) for count in threads for case in cases]
    chart.draw({**DOCUMENT, "results": results}, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_of_a_gpu_beside_the_cpu(tmp_path):
    parts = {"policy update": Timing((4.0,), (2.0,)), "critic": Timing((4.0,), (2.0,))}
    results = [Measurement(case, 1, 2048, parts, (15,), (), {}, "cuda").document() for case in WHOLE]
    machine = {**DOCUMENT["machine"], "gpu": "a graphics processor"}
    document = {**DOCUMENT, "machine": machine, "results": [*results, measured(TRAINING, 1), measured(WHOLE[0], 8)]}
    chart.draw(document, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "a processor, 2 cores, a graphics processor, sb3-contrib" in chart._caption(document)


def test_nothing_was_measured(tmp_path):
    chart.draw({**DOCUMENT, "results": []}, tmp_path / "speed.png")
    assert not (tmp_path / "speed.png").exists()
