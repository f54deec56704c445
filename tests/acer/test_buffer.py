"""The replay buffer gives back exactly what went in: across wrap-around, episode ends, and the disk."""

import io
import pickle

import numpy as np
import pytest
from gymnasium import spaces

from sb3_trpo_ext.acer.buffer import SequenceReplayBuffer, Sequences
from sb3_trpo_ext.common.collection import Timeout

T, B = 4, 3
IMAGE = spaces.Box(0, 255, (6, 6, 1), np.uint8)
VECTOR = spaces.Box(-1, 1, (2,))
OBSERVATIONS = {
    "vector": VECTOR,
    "image": IMAGE,
    "number": spaces.Discrete(5),
    "dict": spaces.Dict(picture=IMAGE, vector=VECTOR),
}
ACTIONS = {"discrete": spaces.Discrete(3), "box": spaces.Box(-1, 1, (2,))}


def batch_of(space, *shape):
    """Random observations of a space, of shape (*shape, …)."""
    if isinstance(space, spaces.Dict):
        return {key: batch_of(part, *shape) for key, part in space.spaces.items()}
    flat = np.stack([space.sample() for _ in range(int(np.prod(shape)))])
    return flat.reshape(*shape, *space.shape)


def make_sequences(observation_space, action_space, seed):
    rng = np.random.default_rng(seed)
    observation_space.seed(seed)
    action_space.seed(seed)
    dones = rng.random((T, B)) < 0.4
    cuts = [(t, b) for t, b in zip(*np.nonzero(dones), strict=True) if rng.random() < 0.5]
    final = [batch_of(observation_space, 1) for _ in cuts]
    unpacked = [{k: v[0] for k, v in f.items()} if isinstance(f, dict) else f[0] for f in final]
    return Sequences(
        batch_of(observation_space, T + 1, B),
        actions=batch_of(action_space, T, B),
        rewards=rng.normal(size=(T, B)).astype(np.float32),
        statistics=rng.normal(size=(T, B, 4)).astype(np.float32),
        dones=dones,
        timeouts=tuple(Timeout(int(t), int(b), o) for (t, b), o in zip(cuts, unpacked, strict=True)),
    )


def make_buffer(observation="vector", action="discrete", capacity=5):
    return SequenceReplayBuffer(capacity * T * B, T, B, OBSERVATIONS[observation], ACTIONS[action], 4)


def plain(sequences, env):
    """One environment's part of a batch, as nested lists and bytes, to be compared with ==."""

    def cut(array):
        return {k: cut(v) for k, v in array.items()} if isinstance(array, dict) else array[:, env].tobytes()

    def whole(value):
        return {k: whole(v) for k, v in value.items()} if isinstance(value, dict) else np.asarray(value).tobytes()

    parts = [cut(getattr(sequences, name)) for name in ("observations", "actions", "rewards", "statistics", "dones")]
    final = sorted((t.step, str(whole(t.observation))) for t in sequences.timeouts if t.env == env)
    return [*parts, final]


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


def test_too_little_memory_is_said_with_the_remedy():
    with pytest.warns(UserWarning, match=r"will need .* GB .*Lower buffer_size to \d+"):
        try:
            SequenceReplayBuffer(10**13, T, B, IMAGE, ACTIONS["discrete"], 3)
        except MemoryError:
            pass


def test_never_smaller_than_one_sequence():
    assert SequenceReplayBuffer(1, T, B, VECTOR, ACTIONS["discrete"], 3).capacity == 1


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
    rolled = [(buffer.position + i) % 5 if n_added > 5 else i for i in range(buffer.n_stored)]  # oldest first
    for new, old in enumerate(rolled):
        one, other = loaded.get(np.full(B, new)), buffer.get(np.full(B, old))
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


def test_a_smaller_buffer_keeps_the_latest():
    buffer, smaller, file = make_buffer(), make_buffer(capacity=2), io.BytesIO()
    added = [make_sequences(VECTOR, ACTIONS["discrete"], seed) for seed in range(7)]
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


@pytest.mark.parametrize(
    "other",
    [
        SequenceReplayBuffer(60, T + 1, B, VECTOR, ACTIONS["discrete"], 4),
        SequenceReplayBuffer(60, T, B + 1, VECTOR, ACTIONS["discrete"], 4),
        SequenceReplayBuffer(60, T, B, IMAGE, ACTIONS["discrete"], 4),
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


DAMAGE = {
    "lengths": lambda saved: saved["dones"][:1],
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
    "position, shape": lambda saved: np.array([1, 2]),
    "position, sign": lambda saved: np.array(-3),
    "position, size": lambda saved: np.array(3),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_whose_parts_do_not_fit_is_refused_and_nothing_changes(damage, tmp_path):
    saved, buffer = make_buffer(), make_buffer()
    for seed in range(2):
        saved.add(make_sequences(VECTOR, ACTIONS["discrete"], seed))
    saved.save(tmp_path / "bad.npz")
    with np.load(tmp_path / "bad.npz") as archive:
        arrays = dict(archive)
    assert len(arrays["timeouts_at"]) > 0
    name = "dones" if damage == "lengths" else damage.partition(",")[0]
    arrays[name] = DAMAGE[damage](arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    buffer.add(make_sequences(VECTOR, ACTIONS["discrete"], 7))
    before = plain(buffer.get(np.zeros(B, int)), 0)
    with pytest.raises(ValueError, match=rf"bad\.npz is not a replay buffer saved by ACER.*{name}"):
        buffer.load(tmp_path / "bad.npz")
    assert plain(buffer.get(np.zeros(B, int)), 0) == before and len(buffer) == T * B


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_buffer().load(tmp_path / "none.npz")


def test_sequences_name_what_is_not_finite():
    good = Sequences(np.zeros((3, 1, 2)), np.zeros((2, 1)), np.zeros((2, 1)), np.zeros((2, 1, 2)), np.zeros((2, 1)))
    assert good.not_finite() == []
    good.rewards[1] = np.nan
    good.observations[2] = np.inf
    assert sorted(good.not_finite()) == ["observations", "rewards"]
