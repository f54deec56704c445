"""The algorithms that are trained side by side."""

from sb3_trpo_ext.bench.algorithms import ALGOS, BASELINE, OURS, shown


def test_ours_come_before_what_they_are_compared_with():
    assert ALGOS[: len(OURS)] == OURS == ("acer", "trpo_ext", "trpo_lstm", "trpo_mask")
    assert BASELINE in ALGOS and BASELINE not in OURS


def test_names_in_reports():
    assert [shown(label) for label in ("trpo_ext", "trpo", "mine")] == ["trpo_ext (ours)", "sb3-contrib trpo", "mine"]
