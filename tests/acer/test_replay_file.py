"""What a replay buffer writes comes back; files that can not be right are refused."""

import io
import pickle

import numpy as np
import pytest
from gymnasium import spaces

from sb3_trpo_ext.acer.buffer import SequenceReplayBuffer
from tests.acer.sequences import (
    ACTIONS,
    IMAGE,
    OBSERVATIONS,
    STACK,
    VECTOR,
    B,
    T,
    make_buffer,
    make_sequences,
    plain,
    saved_file,
)


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("n_added", [0, 3, 7])
@pytest.mark.parametrize("name", ["buffer", "replay_buffer.pkl"])
def test_save_and_load(observation, n_added, name, tmp_path):
    buffer = make_buffer(observation)
    for seed in range(n_added):
        buffer.add(make_sequences(OBSERVATIONS[observation], ACTIONS["discrete"], seed))
    buffer.save(tmp_path / name)
    loaded = make_buffer(observation)
    loaded.add(make_sequences(OBSERVATIONS[observation], ACTIONS["discrete"], 99))
    loaded.load(tmp_path / name)
    assert len(loaded) == len(buffer)
    assert loaded.position == buffer.position
    for slot in range(buffer.n_stored):
        one, other = loaded.get(np.full(B, slot)), buffer.get(np.full(B, slot))
        assert all(plain(one, env) == plain(other, env) for env in range(B))


def test_what_follows_is_the_same_after_loading():
    buffer, loaded, file = make_buffer(), make_buffer(), io.BytesIO()
    added = [make_sequences(VECTOR, ACTIONS["discrete"], seed) for seed in range(9)]
    for sequences in added[:7]:
        buffer.add(sequences)
    buffer.save(file)
    file.seek(0)
    loaded.load(file)
    for sequences in added[7:]:
        buffer.add(sequences)
        loaded.add(sequences)

    def contents(each):
        return sorted(str(plain(each.get(np.full(B, slot)), 0)) for slot in range(5))

    assert contents(buffer) == contents(loaded)


@pytest.mark.parametrize("observation", ["vector", "stack"])
def test_a_smaller_buffer_keeps_the_latest(observation):
    buffer, smaller, file = make_buffer(observation), make_buffer(observation, capacity=2), io.BytesIO()
    added = [make_sequences(OBSERVATIONS[observation], ACTIONS["discrete"], seed) for seed in range(7)]
    for sequences in added:
        buffer.add(sequences)
    buffer.save(file)
    file.seek(0)
    smaller.load(file)
    assert [plain(smaller.get(np.full(B, i)), 1) for i in range(2)] == [plain(s, 1) for s in added[-2:]]


def test_the_file_holds_arrays_only(tmp_path):
    buffer = make_buffer("dict")
    buffer.add(make_sequences(OBSERVATIONS["dict"], ACTIONS["discrete"], 0))
    buffer.save(tmp_path / "buffer.npz")
    with np.load(tmp_path / "buffer.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


@pytest.mark.parametrize("observation", ["stack", "dict"])
@pytest.mark.parametrize("n_added", [0, 3, 7])
def test_a_file_that_has_images_whole_loads(observation, n_added, tmp_path):
    """As they were stored before their channels were."""
    buffer, loaded = make_buffer(observation), make_buffer(observation)
    key, name = ("stack", "observations/stack") if observation == "dict" else ("", "observations/")
    for seed in range(n_added):
        buffer.add(make_sequences(OBSERVATIONS[observation], ACTIONS["discrete"], seed))
    slots = [buffer.get(np.full(B, slot)).observations for slot in range(buffer.n_stored)]
    whole = [(slot[key] if key else slot).swapaxes(0, 1) for slot in slots]
    buffer.save(tmp_path / "file.npz")
    with np.load(tmp_path / "file.npz") as archive:
        arrays = {each: archive[each] for each in archive.files if not each.startswith("channels/")}
    arrays[name] = np.array(whole, np.uint8).reshape(-1, B, T + 1, *STACK.shape)
    np.savez(tmp_path / "file.npz", **arrays)
    loaded.load(tmp_path / "file.npz")
    assert len(loaded) == len(buffer) and loaded.position == buffer.position and loaded.n_bytes == buffer.n_bytes
    for slot in range(buffer.n_stored):
        one, other = loaded.get(np.full(B, slot)), buffer.get(np.full(B, slot))
        assert all(plain(one, env) == plain(other, env) for env in range(B))


def test_nothing_is_left_of_what_was_stored_before_loading():
    buffer, file = make_buffer("stack"), io.BytesIO()
    buffer.add(make_sequences(STACK, ACTIONS["discrete"], 0))
    n_bytes = buffer.n_bytes
    buffer.save(file)
    for seed in range(5):
        buffer.add(make_sequences(STACK, ACTIONS["discrete"], seed))
    file.seek(0)
    buffer.load(file)
    assert buffer.n_stored == 1 and buffer.n_bytes == n_bytes


@pytest.mark.parametrize(
    "other",
    [
        SequenceReplayBuffer(60, T + 1, B, VECTOR, ACTIONS["discrete"], 4),
        SequenceReplayBuffer(60, T, B, IMAGE, ACTIONS["discrete"], 4),
        SequenceReplayBuffer(60, T, B, STACK, ACTIONS["discrete"], 4),
        SequenceReplayBuffer(60, T, B, OBSERVATIONS["dict"], ACTIONS["discrete"], 4),
        SequenceReplayBuffer(60, T, B, VECTOR, ACTIONS["box"], 4),
        SequenceReplayBuffer(60, T, B, VECTOR, ACTIONS["discrete"], 5),
    ],
)
def test_a_file_of_another_model_is_refused_and_nothing_changes(other, tmp_path):
    buffer = make_buffer()
    buffer.add(make_sequences(VECTOR, ACTIONS["discrete"], 0))
    before = plain(buffer.get(np.zeros(B, int)), 0)
    other.save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"not saved by ACER with these spaces|Use the n_steps"):
        buffer.load(tmp_path / "other.npz")
    assert plain(buffer.get(np.zeros(B, int)), 0) == before


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"a": 1}), b"PK\x03\x04broken"])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npz is not a replay buffer saved by ACER"):
        make_buffer().load(tmp_path / "bad.npz")


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("observation", ["vector", "dict"])
def test_a_file_that_was_cut_short_anywhere_says_so(observation, as_file, tmp_path):
    saved_file(tmp_path / "whole.npz", observation)
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in [1, 2, 5, 30, *range(100, len(whole), 211), len(whole) - 22, len(whole) - 1]:
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        expected = "is not a replay buffer saved by ACER, or is damaged" if length < 2 else "it was cut short: the end"
        with pytest.raises(ValueError, match=expected):
            make_buffer(observation).load(io.BytesIO(whole[:length]) if as_file else tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="it is empty"):
        make_buffer().load(tmp_path / "cut.npz")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_file_whose_inside_is_damaged_is_named(place, tmp_path):
    """A bit that has turned is found by the archive's checksums."""
    saved_file(tmp_path / "bad.npz", "image")
    content = bytearray((tmp_path / "bad.npz").read_bytes())
    content[int(place * len(content))] ^= 0x10
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npz is not a replay buffer saved by ACER, or is damaged"):
        make_buffer("image").load(tmp_path / "bad.npz")


@pytest.mark.parametrize("observation", ["vector", "number", "stack", "dict"])
@pytest.mark.parametrize("saved_from, loaded_to", [(3, 2), (2, 3), (1, 4), (4, 1), (3, 3), (1, 7)])
@pytest.mark.parametrize("n_added", [1, 3, 7])
def test_a_file_from_another_number_of_environments(observation, saved_from, loaded_to, n_added, tmp_path):
    """All its sequences are there, those that would leave a gap twice; the oldest come first."""
    sequences = saved_file(tmp_path / "file", observation, n_envs=saved_from, n_added=n_added)
    buffer = make_buffer(observation, capacity=21, n_envs=loaded_to)
    buffer.load(tmp_path / "file")
    slots = [buffer.get(np.full(loaded_to, slot)) for slot in range(buffer.n_stored)]
    loaded = [plain(slot, env) for slot in slots for env in range(loaded_to)]
    again = -len(sequences) % loaded_to
    assert loaded[again:] == sequences and all(each in sequences for each in loaded[:again])
    assert len(buffer) == len(loaded) * T
    buffer.add(make_sequences(OBSERVATIONS[observation], ACTIONS["discrete"], 99, loaded_to))
    assert plain(buffer.get(np.zeros(loaded_to, int)), 0) == loaded[0], "the next one does not lie in the place of one"


def test_of_a_larger_file_from_another_number_of_environments_the_latest_are_kept(tmp_path):
    sequences = saved_file(tmp_path / "file", n_envs=3, n_added=5)
    buffer = make_buffer(capacity=7, n_envs=2)
    buffer.load(tmp_path / "file")
    assert len(sequences) == 15 and len(buffer) == 14 * T
    slots = [buffer.get(np.full(2, slot)) for slot in range(7)]
    assert [plain(slot, env) for slot in slots for env in range(2)] == sequences[-14:]


def with_first(array, value):
    """A copy whose first number is another."""
    changed = array.copy()
    changed.flat[0] = value
    return changed


def at_a_step_that_goes_on(saved):
    slot, env, step = np.argwhere(~saved["dones"])[0]
    return np.concatenate([[[slot, step, env]], saved["timeouts_at"][1:]])


DAMAGE = {
    "lengths": lambda saved: saved["dones"][:1],
    "lengths, environments": lambda saved: saved["dones"][:, :1],
    "rewards": lambda saved: saved["rewards"] * np.nan,
    "statistics": lambda saved: saved["statistics"] + np.inf,
    "timeouts/": lambda saved: saved["timeouts/"][:0],
    "timeouts/, type": lambda saved: saved["timeouts/"].astype(float),
    "timeouts_at, shape": lambda saved: np.array(3),
    "timeouts_at, columns": lambda saved: saved["timeouts_at"][:, :2],
    "timeouts_at, environment": lambda saved: saved["timeouts_at"] + [0, 0, 99],
    "timeouts_at, step": lambda saved: saved["timeouts_at"] + [0, 99, 0],
    "timeouts_at, sequence": lambda saved: saved["timeouts_at"] - [99, 0, 0],
    "timeouts_at, type": lambda saved: saved["timeouts_at"].astype(float),
    "timeouts_at, no end": at_a_step_that_goes_on,
    "timeouts_at, twice": lambda saved: saved["timeouts_at"][[0, *range(len(saved["timeouts_at"]) - 1)]],
    "position, shape": lambda saved: np.array([1, 2]),
    "position, sign": lambda saved: np.array(-3),
    "position, size": lambda saved: np.array(3),
    "actions, too large": lambda saved: with_first(saved["actions"], 3),
    "actions, below 0": lambda saved: with_first(saved["actions"], -1),
}
OF_BOX = {
    "actions": lambda saved: with_first(saved["actions"], np.nan),
    "statistics, no deviation": lambda saved: saved["statistics"] * np.float32([1, 1, 1, 0]),
    "statistics, sign": lambda saved: saved["statistics"] * np.float32([1, 1, -1, 1]),
}
OF_NUMBERS = {
    "observations/": lambda saved: with_first(saved["observations/"], 5),
    "timeouts/": lambda saved: with_first(saved["timeouts/"], -1),
}
OF_STACKS = {
    "observations/, too large": lambda saved: saved["observations/"] + np.int32(10**6),
    "observations/, below 0": lambda saved: with_first(saved["observations/"], -1),
    "observations/, by 1": lambda saved: saved["observations/"] + np.int32(1),
    "channels//1": lambda saved: saved["channels//1"][:, 1:],
    "channels//1, none": lambda saved: saved["channels//1"][:0],
    "channels//1, axes": lambda saved: saved["channels//1"][0],
    "channels//1, type": lambda saved: saved["channels//1"].astype(float),
    "timeouts/": lambda saved: saved["timeouts/"][:, 1:],
    "lengths": lambda saved: saved["dones"][:1],
}
CASES = [
    *[("vector", "discrete", *each) for each in DAMAGE.items()],
    *[("vector", "box", *each) for each in OF_BOX.items()],
    *[("number", "discrete", *each) for each in OF_NUMBERS.items()],
    *[("stack", "discrete", *each) for each in OF_STACKS.items()],
]


@pytest.mark.parametrize("observation, action, damage, damaged", CASES, ids=[f"{case[1]}: {case[2]}" for case in CASES])
def test_a_file_that_can_not_be_is_refused_and_nothing_changes(observation, action, damage, damaged, tmp_path):
    buffer = make_buffer(observation, action)
    saved_file(tmp_path / "bad.npz", observation, action)
    with np.load(tmp_path / "bad.npz") as archive:
        arrays = dict(archive)
    assert len(arrays["timeouts_at"]) > 1
    part = damage.partition(",")[0]
    name = "dones" if part == "lengths" else part
    arrays[name] = damaged(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    buffer.add(make_sequences(OBSERVATIONS[observation], ACTIONS[action], 7))
    before = plain(buffer.get(np.zeros(B, int)), 0)
    with pytest.raises(ValueError, match=rf"bad\.npz is not a replay buffer saved by ACER.*{name}"):
        buffer.load(tmp_path / "bad.npz")
    assert plain(buffer.get(np.zeros(B, int)), 0) == before and len(buffer) == T * B


@pytest.mark.parametrize("name", ["channels//0", "channels//2"])
def test_a_file_with_too_few_or_too_many_channels_is_refused(name, tmp_path):
    saved_file(tmp_path / "bad.npz", "stack")
    with np.load(tmp_path / "bad.npz") as archive:
        arrays = dict(archive)
    channels = arrays.pop(name, arrays["channels//1"])
    np.savez(tmp_path / "bad.npz", **arrays if name == "channels//0" else arrays | {name: channels})
    with pytest.raises(ValueError, match=rf"bad\.npz was not saved by ACER .*lacks or adds {name}\."):
        make_buffer("stack").load(tmp_path / "bad.npz")


def test_actions_that_are_no_whole_numbers_are_refused(tmp_path):
    saved_file(tmp_path / "bad.npz")
    with np.load(tmp_path / "bad.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "bad.npz", **arrays | {"actions": arrays["actions"] + 0.5})
    with pytest.raises(ValueError, match=r"bad\.npz holds actions .* type float64, but this model stores .*int64"):
        make_buffer().load(tmp_path / "bad.npz")


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(2)])
@pytest.mark.parametrize("wrong", [2, -1])
def test_observations_outside_other_spaces_of_whole_numbers(space, wrong, tmp_path):
    buffer = SequenceReplayBuffer(5 * T * B, T, B, space, ACTIONS["discrete"], 4)
    sequences = make_sequences(space, ACTIONS["discrete"], 0)
    buffer.add(sequences)
    buffer.save(tmp_path / "file.npz")
    buffer.load(tmp_path / "file.npz")
    sequences.observations[0, 0, 1] = wrong
    buffer.add(sequences)
    buffer.save(tmp_path / "file.npz")
    with pytest.raises(ValueError, match=r"file\.npz is not a replay.*observations/ holds numbers outside Multi"):
        buffer.load(tmp_path / "file.npz")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_buffer().load(tmp_path / "none.npz")


def test_choices_outside_their_dimensions_are_refused(space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, spaces.MultiDiscrete([3, 2]))).learn(12)
    model.save_replay_buffer(tmp_path / "buffer.npz")
    model.load_replay_buffer(tmp_path / "buffer.npz")
    with np.load(tmp_path / "buffer.npz") as saved:
        wrong = {**saved, "actions": 0 * saved["actions"] + [2, 2]}
    np.savez(tmp_path / "wrong.npz", **wrong)
    with pytest.raises(ValueError, match="actions holds numbers outside MultiDiscrete"):
        model.load_replay_buffer(tmp_path / "wrong.npz")
