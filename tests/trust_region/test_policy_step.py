"""What is logged of an update, from one made by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from sb3_trpo_ext.kernels.conjugate_gradient import CGStop
from sb3_trpo_ext.kernels.line_search import LineSearchResult, Trial
from sb3_trpo_ext.trust_region.policy_step import PolicyStep, StepStatus

STEP = PolicyStep(
    status=StepStatus.ACCEPTED,
    objective_before=0.5,
    objective_after=0.75,
    predicted_improvement=0.2,
    kl_mean=0.01,
    kl_max=0.03,
    kl_predicted=0.008,
    cg_steps=7,
    cg_residual=1e-5,
    cg_stop=CGStop.CONVERGED,
    x_fisher_x=3.0,
    gradient_norm=1.5,
    step_norm=0.1,
    line_search=LineSearchResult(True, 0.64, Trial(0.75, 0.01), 3),
    effective_sample_share=0.9,
    entropy=1.25,
    std=0.4,
    seconds={"gradient": 0.1, "cg": 0.2, "line_search": 0.3},
)
LOGGED = {
    "train/update_status": StepStatus.ACCEPTED.code,
    "train/policy_objective_before": 0.5,
    "train/policy_objective": 0.75,
    "train/predicted_improvement": 0.2,
    "train/actual_improvement": 0.25,
    "train/improvement_ratio": 0.25 / 0.2,
    "train/kl_divergence_loss": 0.01,
    "train/kl_max": 0.03,
    "train/kl_predicted": 0.008,
    "train/cg_steps": 7,
    "train/cg_residual": 1e-5,
    "train/cg_stop": CGStop.CONVERGED.code,
    "train/x_fisher_x": 3.0,
    "train/gradient_norm": 1.5,
    "train/step_norm": 0.1,
    "train/line_search_trials": 3,
    "train/line_search_kl": 0.01,
    "train/is_line_search_success": 1.0,
    "train/effective_sample_share": 0.9,
    "train/entropy": 1.25,
    "train/std": 0.4,
    "time/gradient_seconds": 0.1,
    "time/cg_seconds": 0.2,
    "time/line_search_seconds": 0.3,
}


def test_every_figure_is_logged_under_its_name():
    assert STEP.logged() == LOGGED


def test_a_policy_without_a_width_logs_none():
    assert replace(STEP, std=None).logged() == {key: value for key, value in LOGGED.items() if key != "train/std"}


def test_where_nothing_was_promised_there_is_no_ratio():
    logged = replace(STEP, predicted_improvement=0.0, objective_after=0.5).logged()
    assert math.isnan(logged["train/improvement_ratio"]) and logged["train/actual_improvement"] == 0


def test_a_failed_search_is_logged_as_such():
    failed = replace(STEP, status=StepStatus.LINE_SEARCH_FAILED, line_search=LineSearchResult(False, 0.0, None, 10))
    logged = failed.logged()
    assert (logged["train/update_status"], logged["train/is_line_search_success"]) == (
        StepStatus.LINE_SEARCH_FAILED.code,
        0.0,
    )
    assert logged["train/line_search_trials"] == 10


@pytest.mark.parametrize("stop", CGStop)
@pytest.mark.parametrize("status", StepStatus)
def test_statuses_are_logged_as_their_numbers(status, stop):
    logged = replace(STEP, status=status, cg_stop=stop).logged()
    assert (logged["train/update_status"], logged["train/cg_stop"]) == (status.code, stop.code)


def test_the_numbers_do_not_change():
    """Stored logs keep their meaning."""
    assert [status.name for status in StepStatus] == [
        "ACCEPTED", "LINE_SEARCH_FAILED", "ZERO_GRADIENT", "BAD_CURVATURE", "NO_REGION", "FROZEN", "SKIPPED",
        "NOISE_LIMIT",
    ]  # fmt: skip
    assert [stop.name for stop in CGStop] == [
        "CONVERGED", "STEP_LIMIT", "ZERO_RIGHT_SIDE", "NEGATIVE_CURVATURE", "NOT_FINITE",
    ]  # fmt: skip
    assert [status.code for status in StepStatus] == list(range(8)) and [stop.code for stop in CGStop] == list(range(5))


def test_the_guide_tells_the_numbers():
    guide = (Path(__file__).parents[2] / "docs/guide/troubleshooting.md").read_text(encoding="utf-8")
    for member in (*StepStatus, *CGStop):
        assert f"| {member.code} {member.name.lower()} |" in guide
