"""Random sequences, buffers for them, and their comparison bit for bit."""

import numpy as np
from gymnasium import spaces

from sb3_trpo_ext.acer.buffer import SequenceReplayBuffer, Sequences
from sb3_trpo_ext.common.collection import Timeout

T, B = 4, 3
IMAGE = spaces.Box(0, 255, (6, 6, 1), np.uint8)
STACK = spaces.Box(0, 255, (4, 6, 5), np.uint8)  # its channels first, so they are stored each by itself
VECTOR = spaces.Box(-1, 1, (2,))
OBSERVATIONS = {
    "vector": VECTOR,
    "image": IMAGE,
    "stack": STACK,
    "number": spaces.Discrete(5),
    "dict": spaces.Dict(picture=IMAGE, vector=VECTOR, stack=STACK),
}
ACTIONS = {"discrete": spaces.Discrete(3), "box": spaces.Box(-1, 1, (2,))}


def batch_of(space, *shape):
    """Random observations of a space, of shape (*shape, …)."""
    if isinstance(space, spaces.Dict):
        return {key: batch_of(part, *shape) for key, part in space.spaces.items()}
    flat = np.stack([space.sample() for _ in range(int(np.prod(shape)))])
    return flat.reshape(*shape, *space.shape)


def make_sequences(observation_space, action_space, seed, n_envs=B):
    rng = np.random.default_rng(seed)
    observation_space.seed(seed)
    action_space.seed(seed)
    dones = rng.random((T, n_envs)) < 0.4
    cuts = [(t, b) for t, b in zip(*np.nonzero(dones), strict=True) if rng.random() < 0.5]
    final = [batch_of(observation_space, 1) for _ in cuts]
    unpacked = [{k: v[0] for k, v in f.items()} if isinstance(f, dict) else f[0] for f in final]
    return Sequences(
        batch_of(observation_space, T + 1, n_envs),
        actions=batch_of(action_space, T, n_envs),
        rewards=rng.normal(size=(T, n_envs)).astype(np.float32),
        statistics=rng.uniform(0.1, 2, size=(T, n_envs, 4)).astype(np.float32),
        dones=dones,
        timeouts=tuple(Timeout(int(t), int(b), o) for (t, b), o in zip(cuts, unpacked, strict=True)),
    )


def make_buffer(observation="vector", action="discrete", capacity=5, n_envs=B):
    """Of so many sequences per environment."""
    return SequenceReplayBuffer(capacity * T * n_envs, T, n_envs, OBSERVATIONS[observation], ACTIONS[action], 4)


def plain(sequences, env):
    """One environment's part of a batch, as nested lists and bytes, to be compared with ==."""

    def cut(array):
        return {k: cut(v) for k, v in array.items()} if isinstance(array, dict) else array[:, env].tobytes()

    def whole(value):
        return {k: whole(v) for k, v in value.items()} if isinstance(value, dict) else np.asarray(value).tobytes()

    parts = [cut(getattr(sequences, name)) for name in ("observations", "actions", "rewards", "statistics", "dones")]
    final = sorted((t.step, str(whole(t.observation))) for t in sequences.timeouts if t.env == env)
    return [*parts, final]


def saved_file(path, observation="vector", action="discrete", n_envs=B, n_added=2):
    """Write a file of so many rollouts; what is in it, sequence by sequence, from the oldest to the latest."""
    saved = make_buffer(observation, action, n_envs=n_envs)
    added = [make_sequences(OBSERVATIONS[observation], ACTIONS[action], seed, n_envs) for seed in range(1, n_added + 1)]
    for sequences in added:
        saved.add(sequences)
    saved.save(path)
    return [plain(sequences, env) for sequences in added[-5:] for env in range(n_envs)]
