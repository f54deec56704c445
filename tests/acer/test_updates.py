"""What is logged of the gradient steps of an iteration."""

from dataclasses import fields

import pytest

from sb3_trpo_ext.acer.updates import Update, Updates
from tests.acer.cases import BOX, DISCRETE, VECTOR, logged

KEYS = {
    "importance_weight_mean",
    "importance_weight_max",
    "importance_weight_truncated",
    "average_policy_kl_before",
    "average_policy_kl_after",
    "kl_slope_before_projection",
    "kl_slope_after_projection",
    "projected_share",
    "q_retrace_mean",
    "entropy",
    "critic_loss",
    "gradient_norm",
    "replay_size",
    "n_replays",
    "skipped_updates",
    "n_updates",
    "learning_rate",
    "ent_coef",
    "return_scale",
    "advantage_scale",
}


def update(**figures):
    names = [field.name for field in fields(Update) if field.name != "applied"]
    return Update(applied=True, **(dict.fromkeys(names, 0.0) | figures))


def test_figures_are_means_over_the_steps_but_for_three():
    """The largest weight is the largest of all; the divergence is that before the first step, and after the last."""
    first = update(weight_mean=1.0, weight_max=7.0, average_kl=0.1, slope_before=2.0, critic_loss=3.0)
    second = update(weight_mean=2.0, weight_max=5.0, average_kl=0.5, slope_before=4.0, critic_loss=5.0)
    found = Updates([first, second], average_kl_after=0.9).logged()
    assert found["train/importance_weight_mean"] == 1.5 and found["train/importance_weight_max"] == 7.0
    assert found["train/kl_slope_before_projection"] == 3.0 and found["train/critic_loss"] == 4.0
    assert (found["train/average_policy_kl_before"], found["train/average_policy_kl_after"]) == (0.1, 0.9)


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("trust_region", [True, False])
def test_every_figure_is_logged(action, trust_region, space_env, tiny):
    model = tiny(space_env(VECTOR, action), trust_region=trust_region).learn(60)
    figures = logged(model)
    region = {key for key in KEYS if "kl" in key or "projected" in key}
    assert figures.keys() == (KEYS if trust_region else KEYS - region)
    assert figures["n_updates"] == 10 and figures["replay_size"] == 60 and figures["n_replays"] > 0
    assert 0 <= figures["importance_weight_truncated"] <= 1 <= figures["importance_weight_max"] + 1e-6
