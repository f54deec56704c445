"""Sequences as tensors: which number of a rollout lands where."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sb3_trpo_ext.acer.batch import as_sequence_batch
from sb3_trpo_ext.acer.buffer import Sequences
from sb3_trpo_ext.common.collection import Timeout
from sb3_trpo_ext.kernels.families import Categorical, Gaussian

T, B = 4, 3
ACTIONS = {"discrete": spaces.Discrete(5), "box": spaces.Box(-1, 1, (2,)), "box_matrix": spaces.Box(-1, 1, (2, 2))}
WIDTHS = {"discrete": 5, "box": 4, "box_matrix": 8}  # numbers that describe a distribution


class Taker(NamedTuple):
    """As much of a policy as a batch asks for."""

    action_space: spaces.Space
    device: torch.device = torch.device("cpu")


def numbered(*shape):
    """All different, so that each can be found again."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def make(action="discrete", terminal=(), timeouts=(), keys=None):
    """
    :param terminal: (step, environment) of the terminal states
    :param timeouts: of the time limits; the observation there is −1 for the first, −2 for the second …
    :param keys: of a dictionary of observations
    """
    dones = np.zeros((T, B), bool)
    for place in [*terminal, *timeouts]:
        dones[place] = True
    observations = numbered(T + 1, B, 2)
    last = [np.full(2, -1.0 - i, np.float32) for i in range(len(timeouts))]
    actions = np.random.default_rng(0).integers(5, size=(T, B)) if action == "discrete" else None
    return Sequences(
        {key: observations for key in keys} if keys else observations,
        numbered(T, B, *ACTIONS[action].shape) if actions is None else actions,
        numbered(T, B),
        1 + numbered(T, B, WIDTHS[action]),
        dones,
        tuple(
            Timeout(*at, {key: one for key in keys} if keys else one) for at, one in zip(timeouts, last, strict=True)
        ),
    )


@pytest.mark.parametrize("action", ACTIONS)
def test_row_t_times_b_plus_e_is_step_t_of_environment_e(action):
    sequences = make(action)
    batch = as_sequence_batch(sequences, Taker(ACTIONS[action]))
    assert batch.size == T * B and batch.rewards.shape == batch.dones.shape == (T, B)
    for t in range(T):
        for e in range(B):
            row = t * B + e
            assert batch.states[row].tolist() == sequences.observations[t, e].tolist()
            assert batch.actions[row].flatten().tolist() == sequences.actions[t, e].flatten().tolist()
            described = torch.cat([part[row] for part in batch.behaviour.statistics])
            assert described.tolist() == sequences.statistics[t, e].tolist()
            assert float(batch.rewards[t, e]) == sequences.rewards[t, e]
    assert torch.equal(batch.over_time(torch.arange(T * B)), torch.arange(T * B).view(T, B))


@pytest.mark.parametrize(
    "action, kind, shape", [("discrete", Categorical, ()), ("box", Gaussian, (2,)), ("box_matrix", Gaussian, (4,))]
)
def test_actions_and_behaviour_are_those_of_the_action_space(action, kind, shape):
    batch = as_sequence_batch(make(action), Taker(ACTIONS[action]))
    assert type(batch.behaviour) is kind and batch.actions.shape == (T * B, *shape)
    assert batch.actions.dtype == (torch.int64 if action == "discrete" else torch.float32)


@pytest.mark.parametrize("keys", [None, ("one", "two")], ids=["vector", "dictionary"])
def test_after_the_states_come_the_last_ones_and_those_of_time_limits(keys):
    sequences = make(timeouts=[(1, 2), (3, 0)], keys=keys)
    batch = as_sequence_batch(sequences, Taker(ACTIONS["discrete"]))
    for key in keys or [None]:
        stored = sequences.observations if key is None else sequences.observations[key]
        found, states = (part if key is None else part[key] for part in (batch.observations, batch.states))
        assert torch.equal(states, torch.as_tensor(stored[:T].reshape(T * B, 2)))
        assert torch.equal(found[: T * B], states) and torch.equal(found[T * B : T * B + B], torch.as_tensor(stored[T]))
        assert found[T * B + B :].tolist() == [[-1, -1], [-2, -2]]


def values_of(batch):
    """V of each state is its first number, plus 100."""
    return 100 + batch.observations[:, 0]


def test_a_sequence_that_goes_on_is_worth_what_its_next_state_is():
    batch = as_sequence_batch(make(), Taker(ACTIONS["discrete"]))
    bootstraps = batch.bootstraps(values_of(batch))
    assert bootstraps[-1].tolist() == (100 + numbered(T + 1, B, 2)[T, :, 0]).tolist()
    assert not bootstraps[:-1].any()


def test_terminal_states_are_worth_nothing_at_the_last_step_too():
    batch = as_sequence_batch(make(terminal=[(1, 0), (3, 1)]), Taker(ACTIONS["discrete"]))
    bootstraps = batch.bootstraps(values_of(batch))
    assert bootstraps[1, 0] == bootstraps[3, 1] == 0 and (bootstraps[3, [0, 2]] > 100).all()


def test_time_limits_are_worth_what_their_own_last_state_is():
    places = [(3, 1), (0, 1), (2, 2)]
    batch = as_sequence_batch(make(terminal=[(3, 0)], timeouts=places), Taker(ACTIONS["discrete"]))
    bootstraps = batch.bootstraps(values_of(batch))
    assert [float(bootstraps[place]) for place in places] == [99, 98, 97]
    assert bootstraps[3, 0] == 0 and bootstraps[3, 2] > 100
