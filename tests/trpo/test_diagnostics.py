"""What every update tells: all promised keys, finite, consistent with each other, and really in every output."""

import csv
import inspect
import json
import math
import re

import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels.conjugate_gradient import CGStop
from sb3_trpo_ext.trust_region.policy_step import StepStatus

VECTOR = spaces.Box(-1, 1, (3,))
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}
DIMENSIONS = {"box": 2, "discrete": 1, "multi_discrete": 1, "multi_binary": 3}  # that contrib's KL is averaged over

NUMBERS = {
    "train/policy_objective_before",
    "train/policy_objective",
    "train/predicted_improvement",
    "train/actual_improvement",
    "train/improvement_ratio",
    "train/kl_divergence_loss",
    "train/kl_max",
    "train/kl_predicted",
    "train/target_kl",
    "train/cg_steps",
    "train/cg_damping",
    "train/cg_residual",
    "train/x_fisher_x",
    "train/gradient_norm",
    "train/step_norm",
    "train/line_search_trials",
    "train/line_search_kl",
    "train/is_line_search_success",
    "train/line_search_failures",
    "train/skipped_updates",
    "train/effective_sample_share",
    "train/ent_coef",
    "train/entropy",
    "train/explained_variance",
    "train/value_loss",
    "train/critic_steps",
    "train/is_critic_finite",
    "train/n_updates",
}
RAW = {"normalize_observations": False}  # or the policy would change after the update
OF_ADAM = {"train/learning_rate"}
TIMES = {f"time/{part}_seconds" for part in ("rollout", "gradient", "cg", "line_search", "critic")}
CODES = {"train/update_status", "train/cg_stop"}
SETTINGS = {
    "default": {},
    "plain": {"fast": False},
    "mean_kl": {"kl_reduction": "mean"},
    "natural_policy_gradient": {"line_search_max_iter": 0},
    "euclidean": {"trust_region": "euclidean"},
    "entropy_bonus": {"ent_coef": 0.1},
    "no_damping": {"cg_damping": 0.0},
    "thinned": {"sub_sampling_factor": 2, "curvature_sampling_factor": 2},
    "raw_advantages": {"normalize_advantage": False},
    "large_region": {"target_kl": 0.5, "line_search_shrinking_factor": 0.9},
}


@pytest.fixture
def make(space_env, tiny):
    def build(action="box", **settings):
        return tiny(space_env(VECTOR, ACTIONS[action]), **({"n_steps": 64, "target_kl": 0.02} | settings))

    return build


def samples_of(model):
    """All of the rollout's samples, in their order."""
    next(model.rollout_buffer.get(1))  # which lays the arrays out flat
    return model.rollout_buffer._get_samples(np.arange(64))


def logged(model):
    return dict(model.logger.name_to_value)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("action", ACTIONS)
def test_all_keys_are_there_finite_and_consistent(action, settings, make, bits):
    model = make(action, **SETTINGS[settings]).learn(128)
    theta = torch.cat([parameter.detach().flatten() for parameter in model.actor.parameters])
    model.learn(64, reset_num_timesteps=False, log_interval=1000)  # or the rollout's numbers were shown and gone
    moved = torch.cat([parameter.detach().flatten() for parameter in model.actor.parameters]) - theta
    values = logged(model)

    expected = NUMBERS | TIMES | CODES | ({"train/std"} if action == "box" else set())
    assert {key for key in values if key.startswith("train/") or key.endswith("_seconds")} == expected
    assert values["train/update_status"] == StepStatus.ACCEPTED.code
    assert values["train/cg_stop"] in {stop.code for stop in CGStop}
    for key in expected:
        assert math.isfinite(values[key]), key
    v = {key.partition("/")[2]: value for key, value in values.items()}

    assert v["actual_improvement"] == v["policy_objective"] - v["policy_objective_before"]
    assert v["improvement_ratio"] == v["actual_improvement"] / v["predicted_improvement"]
    assert v["predicted_improvement"] > 0
    searched = model.line_search_max_iter > 0
    if searched:
        assert v["actual_improvement"] > 0
        assert 1 <= v["line_search_trials"] <= model.line_search_max_iter
    else:
        assert v["line_search_trials"] == 1
    if searched and model.trust_region == "kl":
        assert 0 < v["kl_divergence_loss"] <= v["target_kl"] == model.target_kl
    assert 0 < v["kl_divergence_loss"] <= v["kl_max"]
    assert v["is_line_search_success"] == 1 and v["is_critic_finite"] == 1
    assert v["step_norm"] == pytest.approx(float(moved.norm()), rel=1e-3)

    fraction = model.line_search_shrinking_factor ** (v["line_search_trials"] - 1)
    beta = math.sqrt(2 * v["target_kl"] / v["x_fisher_x"])
    if v["cg_damping"] > 0:
        # gᵀx = xᵀ(F + λI)x + xᵀr, and CG keeps its residual r orthogonal to x as long as F + λI is well conditioned
        assert v["predicted_improvement"] == pytest.approx(fraction * beta * v["x_fisher_x"], rel=1e-3)
    assert v["kl_predicted"] <= fraction**2 * v["target_kl"] * (1 + 1e-5)
    if model.trust_region == "euclidean":
        assert v["step_norm"] == pytest.approx(fraction * math.sqrt(2 * v["target_kl"]), rel=1e-5)
        assert (v["cg_steps"], v["cg_stop"]) == (1, CGStop.CONVERGED.code)
        assert v["cg_damping"] == 0 and v["kl_predicted"] == pytest.approx(0.5 * v["step_norm"] ** 2, rel=1e-4)
    elif v["cg_damping"] == 0:
        assert v["kl_predicted"] == pytest.approx(fraction**2 * v["target_kl"], rel=1e-4)
    assert 1 <= v["cg_steps"] <= model.cg_max_steps
    assert (v["cg_stop"] == CGStop.CONVERGED.code) == (v["cg_residual"] <= model.cg_tolerance)
    assert v["explained_variance"] <= 1 and v["value_loss"] >= 0
    assert v["n_updates"] == 3 and v["effective_sample_share"] == 1
    assert all(values[key] >= 0 for key in TIMES)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("action", ACTIONS)
def test_logged_quantities_are_those_of_torch_distributions(action, reduction, make):
    """KL(old‖new), entropy, surrogate and std, computed again from the rollout by other means."""
    settings = {"critic": "adam", "learning_rate": 0.0, "gae_lambda": 0.95, "policy_kwargs": RAW}
    model = make(action, kl_reduction=reduction, **settings)
    old_policy = make(action, policy_kwargs=RAW).policy
    old_policy.load_state_dict(model.policy.state_dict())
    model.learn(64)
    values = logged(model)

    data = samples_of(model)
    actions = data.actions.long().flatten() if action == "discrete" else data.actions
    with torch.no_grad():
        old, new = (policy.get_distribution(data.observations) for policy in (old_policy, model.policy))
        ratio = (new.log_prob(actions) - data.old_log_prob).exp()
        pairs = [(old.distribution, new.distribution)]
        if isinstance(old.distribution, list):
            pairs = list(zip(old.distribution, new.distribution, strict=True))
        kl = sum(torch.distributions.kl_divergence(*pair).reshape(64, -1).sum(dim=1) for pair in pairs)
        entropy = new.entropy().mean()
    kl /= DIMENSIONS[action] if reduction == "mean" else 1
    advantages = (data.advantages - data.advantages.mean()) / data.advantages.std()
    assert values["train/kl_divergence_loss"] == pytest.approx(float(kl.mean()), rel=1e-3)
    assert values["train/kl_max"] == pytest.approx(float(kl.max()), rel=1e-3)
    assert values["train/entropy"] == pytest.approx(float(entropy), rel=1e-5)
    assert values["train/policy_objective"] == pytest.approx(float((ratio * advantages).mean()), rel=1e-3)
    assert values["train/policy_objective_before"] == pytest.approx(float(advantages.mean()), abs=1e-6)
    residual = data.returns - data.old_values
    assert values["train/value_loss"] == pytest.approx(float(residual.square().mean()), rel=1e-4)
    if action == "box":
        assert values["train/std"] == pytest.approx(model.policy.log_std.exp().mean().item(), rel=1e-6)
    explained = 1 - float(residual.var() / data.returns.var())
    assert values["train/explained_variance"] == pytest.approx(explained, abs=1e-4)


def test_contribs_keys_are_kept():
    """Every key that sb3-contrib's TRPO records is recorded under the same name."""
    recorded = set(re.findall(r'record\(\s*"([^"]+)"', inspect.getsource(sb3_contrib.TRPO)))
    assert recorded and recorded <= NUMBERS | OF_ADAM | TIMES | CODES | {"train/std"}


OUTPUT_KEYS = NUMBERS | TIMES | CODES | {"train/std"}


@pytest.fixture
def outputs(make, tmp_path, capsys):
    """A run that writes to everything SB3 knows; gives the folder and the console's text."""
    model = make(verbose=1)
    model.set_logger(configure(str(tmp_path), ["stdout", "csv", "json", "tensorboard"]))
    model.learn(64 * 3)
    model.logger.close()
    return tmp_path, capsys.readouterr().out


def test_console_csv_and_json(outputs):
    folder, console = outputs
    tables = [part for part in re.split(r"^-+$", console, flags=re.MULTILINE) if "iterations" in part]
    assert len(tables) == 3
    rows = {line.split("|")[1].strip() for line in tables[-1].strip().splitlines()}
    assert {key.partition("/")[2] for key in OUTPUT_KEYS} <= rows

    with open(folder / "progress.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3
    for row in table[1:]:  # a table shows the update before its rollout
        assert all(row[key] != "" for key in OUTPUT_KEYS)
        assert (
            float(row["train/update_status"]) == StepStatus.ACCEPTED.code
            and float(row["train/kl_divergence_loss"]) <= 0.02
        )
    lines = [json.loads(line) for line in (folder / "progress.json").read_text().splitlines()]
    assert all(key in lines[-1] for key in OUTPUT_KEYS)


def test_tensorboard(outputs):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(outputs[0])).Reload()
    assert (NUMBERS | TIMES | CODES | {"train/std"}) <= set(board.Tags()["scalars"])
    events = board.Scalars("train/kl_divergence_loss")
    assert [event.step for event in events] == [128, 192] and all(0 < event.value <= 0.02 for event in events)
    # The last update's numbers come after the last table.


def test_tensorboard_folder_is_named_after_the_algorithm(make, tmp_path):
    pytest.importorskip("tensorboard")
    make(tensorboard_log=str(tmp_path)).learn(64)
    make(tensorboard_log=str(tmp_path)).learn(64, tb_log_name="mine")
    assert {path.name for path in tmp_path.iterdir()} == {"TRPO_1", "mine_1"}


def test_skipped_update_is_in_the_outputs_too(space_env, tiny, tmp_path, capsys):
    env = space_env(VECTOR, ACTIONS["box"], bad={70: ("reward", math.nan)})
    model = tiny(env, n_steps=64)
    model.set_logger(configure(str(tmp_path), ["stdout", "csv"]))
    with pytest.warns(UserWarning, match="Update skipped"):
        model.learn(64 * 4)
    model.logger.close()
    with open(tmp_path / "progress.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["train/update_status"] for row in table] == ["", "0", str(StepStatus.SKIPPED.code), "0"]
    assert [row["train/skipped_updates"] for row in table] == ["", "0", "1", "1"]
    assert [row["train/n_updates"] for row in table] == ["", "1", "1", "2"]
    assert table[2]["train/kl_divergence_loss"] == ""  # nothing is claimed about an update that was not made
    assert "skipped_updates" in capsys.readouterr().out


def test_entropy_and_std_follow_the_policy_under_gsde(make):
    model = make(use_sde=True, policy_kwargs=RAW).learn(128)
    values = logged(model)
    data = samples_of(model)
    with torch.no_grad():
        distribution = model.policy.get_distribution(data.observations).distribution
    assert values["train/std"] == pytest.approx(float(distribution.stddev.mean()), rel=1e-5)
    assert values["train/entropy"] == pytest.approx(float(distribution.entropy().sum(dim=1).mean()), rel=1e-5)
    assert values["train/kl_divergence_loss"] <= model.target_kl


class Normalized(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 5)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)


@pytest.mark.parametrize("action", ACTIONS)
def test_kl_is_measured_on_the_policy_that_acts_with_batch_norm_and_dropout(action, make, monkeypatch):
    """In evaluation mode, as rollouts are collected: without dropout, with the running statistics."""
    settings = {"policy_kwargs": {"features_extractor_class": Normalized, "share_features_extractor": False}}
    model, old = make(action, **settings), make(action, **settings)
    monkeypatch.setattr(model, "_move_statistics", lambda rollout: None)  # or the policy were another again
    model.learn(64)
    data = samples_of(model)
    for policy in (model.policy, old.policy):
        policy.set_training_mode(False)
    inputs = Inputs(data.observations)
    new_family, old_family = model.actor.family(inputs), old.actor.family(inputs)
    kl = float(old_family.kl(new_family).mean())
    assert logged(model)["train/kl_divergence_loss"] == pytest.approx(kl, rel=1e-3)
    assert 0 < kl <= model.target_kl


@pytest.mark.parametrize("critic", ["trust_region", "adam"])
def test_an_update_moves_no_running_statistics(critic, make, monkeypatch):
    """A line search would see another function in every trial, a shared layer move the policy behind its back."""
    extractor = {"features_extractor_class": Normalized, "share_features_extractor": False}
    model = make(critic=critic, policy_kwargs=extractor)
    monkeypatch.setattr(model, "_move_statistics", lambda rollout: None)
    model.learn(64)
    for extractor in (model.policy.vf_features_extractor, model.policy.pi_features_extractor):
        assert int(extractor.layers[1].num_batches_tracked) == 0


def test_status_and_stop_explain_themselves():
    for member in (*StepStatus, *CGStop):
        text = member.value
        assert member in (StepStatus.ACCEPTED,) or ":" in text  # what it means: what to do
