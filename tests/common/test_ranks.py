"""
Several processes against one: the numbers of an update, and statistics.

All of it runs in one process group, once for two ranks and once for three.
"""

import math

import pytest
import torch

from sb3_trpo_ext.common.ranks import ALONE, checksum, is_wanted
from tests import programs
from tests.processes import launch

STEPS = {
    **{f"step {name}": (name, {}) for name in ("box", "discrete", "multi_discrete", "multi_binary", "gsde")},
    "step with kfac": ("discrete", {"kfac": True}),
    "step with entropy": ("box", {"ent_coef": 0.01}),
}


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def answers(request, tmp_path_factory):
    result = launch("together", request.param, tmp_path_factory.mktemp("ranks"))
    assert None not in result.of_ranks, "\n".join(result.errors)
    return result.of_ranks


def close(one, other, tolerance):
    return torch.allclose(
        torch.as_tensor(one, dtype=torch.float64),
        torch.as_tensor(other, dtype=torch.float64),
        rtol=tolerance,
        atol=tolerance,
    )


def test_means_maxima_and_words(answers):
    n = len(answers)
    samples = torch.cat([(torch.arange(5.0) + 10 * k)[: 5 - 2 * k] for k in range(n)])
    for rank, answer in enumerate(answers):
        got = answer["numbers"]
        assert close(got["mean"], samples.mean(), 1e-6)
        assert close(got["deviation"], samples.std(), 1e-6)
        assert got["largest"] == (-samples).max()
        assert math.isnan(got["largest of nan"])
        assert got["largest of integers"] == n - 1
        assert got["any"] == (True, False)
        assert got["count"] == n * (n + 1) // 2
        assert got["gather"] == [f"rank {k}" for k in range(n)]
        assert got["first"] == 0
        assert got["sum"].tolist() == [n, n, n]
        assert got["sum of nothing"].numel() == 0, rank


@pytest.mark.parametrize("name", STEPS)
def test_an_update_is_that_of_one_process_with_all_the_data(name, answers):
    policy, settings = STEPS[name]
    alone = programs.step(policy, ALONE, **settings)
    # K-FAC draws actions of its own, others on each rank: the direction is the same up to its residual.
    tolerance = 1e-6 if "kfac" in settings else 1e-12
    for answer in answers:
        for key, value in alone.items():
            assert key == "cg_steps" or close(answer[name][key], value, tolerance), key


def test_an_update_in_float32(answers):
    """It may differ by what rounding makes of another order of the samples in one process, which is about 1e-6."""
    alone, *others = (programs.step("box", ALONE, precise=False, order=k)["theta"] for k in (None, *range(5)))
    rounding = max(float((other - alone).abs().max()) for other in others)
    assert 0 < rounding < 2e-6
    for answer in answers:
        assert close(answer["step in float32"]["theta"], alone, 2 * rounding)


@pytest.mark.parametrize("method", ["trust_region", "adam"])
def test_the_critic_is_that_of_one_process_with_all_the_data(method, answers):
    alone = programs.critic(method, ALONE)
    for answer in answers:
        for key, value in alone.items():
            assert close(answer[f"critic {method}"][key], value, 1e-12), key


def test_minibatches_are_taken_by_all_ranks_at_the_same_time(answers):
    first = answers[0]["minibatches"]
    assert first["steps"] >= 2 * 5
    assert all(answer["minibatches"]["steps"] == first["steps"] for answer in answers)
    assert all(torch.equal(answer["minibatches"]["w"], first["w"]) for answer in answers)


def test_statistics_are_those_of_one_process(answers):
    alone = programs.statistics(ALONE)
    for answer in answers:
        got = answer["statistics"]
        assert got["moments"]["count"] == alone["moments"]["count"] == 3 * programs.N
        assert close(got["moments"]["mean"], alone["moments"]["mean"], 1e-12)
        assert close(got["moments"]["m2"], alone["moments"]["m2"], 1e-12)
        assert close(got["VecNormalize"], alone["VecNormalize"], 1e-9)
        assert got["count"] == pytest.approx(alone["count"], abs=1e-9)
        assert torch.equal(got["VecNormalize"], answers[0]["statistics"]["VecNormalize"])


def test_one_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert not is_wanted("auto") and not is_wanted(False)
    with pytest.raises(ValueError, match=r"distributed=True needs several processes.*torchrun"):
        is_wanted(True)


def test_what_torchrun_says_counts_unless_it_is_not_wanted(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert is_wanted("auto") and is_wanted(True)
    assert not is_wanted(False)


@pytest.mark.parametrize("value", ["yes", 2, None])
def test_a_wrong_setting_is_refused(value, tiny, make_env):
    with pytest.raises(ValueError, match="distributed"):
        tiny(make_env(), distributed=value)


def test_a_checksum_sees_every_bit():
    one = torch.zeros(3)
    other = one.clone()
    other[1] = -0.0
    assert checksum(one) == checksum(one.clone())
    assert checksum(one) != checksum(other)
