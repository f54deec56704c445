"""Whole trainings on two ranks with unequal numbers of samples: equal bit for bit, counted, stopped, written once."""

import pytest
import torch

from tests import programs
from tests.cases import each_device
from tests.processes import launch

TRAINED = tuple(programs.MODELS)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    result = launch("trainings", 2, tmp_path_factory.mktemp("ranks"))
    assert None not in result.of_ranks, "\n".join(result.errors)
    return result.of_ranks


@pytest.mark.parametrize("kind", TRAINED)
def test_ranks_stay_equal_bit_for_bit(kind, two, bits):
    one, other = (answer[f"trained {kind}"] for answer in two)
    assert bits(one["policy"]) == bits(other["policy"])
    assert bits(one["optimizer"]) == bits(other["optimizer"])
    assert bits(one["statistics"]) == bits(other["statistics"])


@pytest.mark.parametrize("kind", TRAINED)
def test_steps_updates_and_episodes_of_all_ranks_are_counted(kind, two):
    for answer in two:
        got = answer[f"trained {kind}"]
        assert got["timesteps"][0] == got["timesteps"][1]
        assert got["updates"] == (50 if kind in programs.LONG else 5)
    one, other = (answer[f"trained {kind}"] for answer in two)
    assert one["episodes"] == other["episodes"]


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_each_rank_has_environments_of_its_own(kind, two):
    one, other = (answer[f"trained {kind}"]["first observation"] for answer in two)
    assert not (one[0] == other[0]).all()


def test_a_callback_of_one_rank_ends_training_on_all(two):
    assert [answer["stopped"]["updates"] for answer in two] == [2, 2]


def test_rank_0_alone_writes(two):
    files, nothing = (answer["written"]["files"] for answer in two)
    assert not nothing
    assert "model.zip" in files and "evaluations.npz" in files
    assert any("events.out" in name for name in files)
    # Every 64 steps of all ranks, of 256.
    assert [name for name in files if "saved" in name] == [f"saved/rl_model_{n}_steps.zip" for n in (128, 192, 256, 64)]


def test_bad_data_of_one_rank_is_skipped_by_all(two):
    one, other = (answer["bad"] for answer in two)
    assert one["skipped"] == other["skipped"] == 1
    assert one["updates"] == other["updates"] == 5
    assert len(one["warnings"]) == 1 and "of rank 1" in one["warnings"][0]
    assert not other["warnings"]
    assert torch.equal(one["statistics"], other["statistics"])
    assert torch.isfinite(one["statistics"]).all()


def test_waiting_times_are_logged(two):
    log = two[0]["bad"]["log"]
    assert {"ranks/rank_0_wait_seconds", "ranks/rank_1_wait_seconds"} <= log.keys()
    assert min(log["ranks/rank_0_wait_seconds"], log["ranks/rank_1_wait_seconds"]) == 0.0


@each_device
def test_a_group_of_one_rank_trains_as_a_process_by_itself(device, tmp_path):
    answers = launch(f"group of one, {device}", 1, tmp_path)
    assert answers.of_ranks[0] is not None, answers.errors[0]
    alone = programs.model_of("box", 2, device=device, distributed=False, cg_max_steps=5).learn(16 * 2)
    for got, parameter in zip(answers.of_ranks[0], alone.policy.parameters(), strict=True):
        assert torch.allclose(got, parameter.detach().cpu(), rtol=1e-4, atol=1e-5)
