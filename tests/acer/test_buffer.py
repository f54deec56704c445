"""The replay buffer gives back exactly what went in: across wrap-around and episode ends."""

import numpy as np
import pytest

from sb3_trpo_ext.acer.buffer import SequenceReplayBuffer, Sequences
from tests.acer.sequences import ACTIONS, IMAGE, OBSERVATIONS, STACK, VECTOR, B, T, make_buffer, make_sequences, plain


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("n_added", [1, 3, 5, 12])
def test_gives_back_what_went_in_across_wrap_around(observation, action, n_added):
    buffer = make_buffer(observation, action)
    added = [make_sequences(OBSERVATIONS[observation], ACTIONS[action], seed) for seed in range(n_added)]
    for sequences in added:
        buffer.add(sequences)
    assert len(buffer) == min(n_added, 5) * T * B
    latest = added[-5:]
    for i, sequences in enumerate(latest):
        slot = (n_added - len(latest) + i) % 5
        stored = buffer.get(np.full(B, slot))
        assert all(plain(stored, env) == plain(sequences, env) for env in range(B))


def test_each_environment_is_drawn_from_a_time_of_its_own_with_its_own_time_limits():
    buffer = make_buffer()
    added = [make_sequences(VECTOR, ACTIONS["discrete"], seed) for seed in range(5)]
    for sequences in added:
        buffer.add(sequences)
    np.random.seed(0)
    mixed = 0
    counts = np.zeros((B, 5))
    for _ in range(200):
        drawn = buffer.sample()
        origins = []
        for env in range(B):
            (origin,) = [i for i, sequences in enumerate(added) if plain(sequences, env) == plain(drawn, env)]
            origins.append(origin)
            counts[env, origin] += 1
        mixed += len(set(origins)) > 1
    assert mixed > 150 and counts.min() > 15


def test_images_stay_bytes_and_memory_is_known():
    buffer = make_buffer("image")
    buffer.add(make_sequences(IMAGE, ACTIONS["discrete"], 0))
    assert buffer.get(np.zeros(B, int)).observations.dtype == np.uint8
    per_slot = B * ((T + 1) * 36 + T * (8 + 4 + 4 * 4 + 1))
    assert buffer.n_bytes == 5 * per_slot


def test_stacks_are_stored_by_their_frames():
    """With which the whole buffer's memory is known when something is stored: here nothing comes twice."""
    buffer = make_buffer("stack")
    numbers = B * (T + 1) * 4 * 4
    rest = B * T * (8 + 4 + 4 * 4 + 1)
    assert buffer.n_bytes == 5 * (numbers + rest)
    for seed in range(7):
        buffer.add(make_sequences(STACK, ACTIONS["discrete"], seed))
        assert buffer.n_bytes == 5 * (numbers + rest + B * (T + 1) * 4 * 30)


def test_too_little_memory_is_said_with_the_remedy():
    with pytest.warns(UserWarning, match=r"will need .* GB .*Lower buffer_size to \d+"):
        try:
            SequenceReplayBuffer(10**13, T, B, IMAGE, ACTIONS["discrete"], 3)
        except MemoryError:
            pass


def test_never_smaller_than_one_sequence():
    assert SequenceReplayBuffer(1, T, B, VECTOR, ACTIONS["discrete"], 3).capacity == 1


def test_sequences_name_what_is_not_finite():
    good = Sequences(np.zeros((3, 1, 2)), np.zeros((2, 1)), np.zeros((2, 1)), np.zeros((2, 1, 2)), np.zeros((2, 1)))
    assert good.not_finite() == []
    good.rewards[1] = np.nan
    good.observations[2] = np.inf
    assert sorted(good.not_finite()) == ["observations", "rewards"]
