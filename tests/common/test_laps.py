"""The stopwatch, by a clock that the test winds."""

from sb3_trpo_ext.common import laps
from sb3_trpo_ext.common.laps import Laps


def test_each_part_takes_from_the_end_of_the_one_before(monkeypatch):
    moments = iter([10.0, 10.5, 13.5, 13.75])
    monkeypatch.setattr(laps.time, "perf_counter", lambda: next(moments))
    watch = Laps()
    assert watch.seconds == {}
    for part in ("gradient", "cg", "line_search"):
        watch.end(part)
    assert watch.seconds == {"gradient": 0.5, "cg": 3.0, "line_search": 0.25}


def test_two_watches_know_nothing_of_each_other():
    one, other = Laps(), Laps()
    one.end("part")
    assert one.seconds["part"] >= 0 and other.seconds == {}
