"""Replay of stacked frames: each is stored once, and what is drawn is what was seen, whoever has stacked them."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer import buffer as buffer_module
from sb3_trpo_ext.acer import replay_file
from tests.acer.cases import DISCRETE
from tests.acer.sequences import plain

SIZE = 36  # of an image, which SB3's CNN asks for at least
GREY, RGB = (spaces.Box(0, 255, (SIZE, SIZE, n), np.uint8) for n in (1, 3))
GREY_FIRST, FLAT = (spaces.Box(0, 255, shape, np.uint8) for shape in ((1, SIZE, SIZE), (SIZE, SIZE)))
DICT = spaces.Dict(picture=GREY, vector=spaces.Box(-1, 1, (2,)))
LENGTHS = (3, 11, 7)  # of the episodes of each environment: shorter than a stack, longer than a sequence, as long
T, CAPACITY = 7, 4


class Flicker(VecEnvWrapper):
    """Changes every image after it was stacked, as augmentations do."""

    def __init__(self, env):
        super().__init__(env)
        self._rng = np.random.default_rng(0)

    def reset(self):
        return self._changed(self.venv.reset())

    def step_wait(self):
        observations, *rest = self.venv.step_wait()
        return self._changed(observations), *rest

    def _changed(self, observations):
        return np.roll(observations, self._rng.integers(1, SIZE), axis=2)


@pytest.fixture
def stacked(space_env):
    """Environments of unequal episodes: ``stacked(kind)``, one of ``KINDS``."""

    def make(kind):
        space, wrap_one, wrap_all = KINDS[kind]
        return wrap_all(DummyVecEnv([lambda n=n: wrap_one(space_env(space, DISCRETE, length=n)) for n in LENGTHS]))

    return make


def itself(env):
    return env


def without_its_last_axis(env):
    """gymnasium's stack of (h, w) is (n, h, w)."""
    return FrameStackObservation(TransformObservation(env, lambda seen: seen[..., 0], FLAT), 4)


# Kind → space of a frame, wrapper of each environment, wrapper of all.
KINDS = {
    "last": (GREY, itself, lambda env: VecFrameStack(env, 4)),
    "first": (GREY_FIRST, itself, lambda env: VecFrameStack(env, 4, channels_order="first")),
    "two": (GREY, itself, lambda env: VecFrameStack(env, 2)),
    "rgb": (RGB, itself, lambda env: VecFrameStack(env, 4)),
    "transposed by hand": (RGB, itself, lambda env: VecTransposeImage(VecFrameStack(env, 3))),
    "transposed before": (GREY, itself, lambda env: VecFrameStack(VecTransposeImage(env), 4)),
    "dict": (DICT, itself, lambda env: VecFrameStack(env, 4)),
    "gymnasium's": (GREY, without_its_last_axis, itself),
    "normalised rewards": (GREY, itself, lambda env: VecNormalize(VecFrameStack(env, 4), norm_obs=False)),
    "augmented": (GREY, itself, lambda env: Flicker(VecFrameStack(env, 4))),
    "unstacked": (RGB, itself, itself),
}


def recorded(model, monkeypatch):
    """The sequences that are stored from now on, copied before they are."""
    seen = []
    add = model.replay_buffer.add

    def record(sequences):
        seen.append([plain(sequences, env) for env in range(model.n_envs)])
        add(sequences)

    monkeypatch.setattr(model.replay_buffer, "add", record)
    return seen


def contents(buffer):
    slots = [buffer.get(np.full(buffer.n_envs, slot)) for slot in range(buffer.n_stored)]
    return [[plain(slot, env) for env in range(buffer.n_envs)] for slot in slots]


@pytest.fixture
def made(tiny, stacked):
    def make(kind, **settings):
        policy = "MultiInputPolicy" if kind == "dict" else "CnnPolicy"
        small = {"n_steps": T, "buffer_size": CAPACITY * T * len(LENGTHS), "replay_ratio": 1}
        return tiny(stacked(kind), policy, **small | settings)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_rollouts", [2, CAPACITY + 3])
def test_what_is_drawn_is_what_was_seen(kind, n_rollouts, made, monkeypatch):
    """Time limits' last observations too, and after the oldest sequences have given way."""
    model = made(kind, replay_ratio=1e-9)
    seen = recorded(model, monkeypatch)
    model.learn(n_rollouts * T * len(LENGTHS))
    assert len(seen) == n_rollouts and any(timeouts for rollout in seen for *_, timeouts in rollout)
    in_slot = {i % CAPACITY: rollout for i, rollout in enumerate(seen)}
    assert contents(model.replay_buffer) == [in_slot[slot] for slot in range(min(n_rollouts, CAPACITY))]


@pytest.mark.parametrize("kind", ["last", "rgb", "dict", "gymnasium's", "augmented"])
def test_nothing_else_is_learnt_than_from_whole_images(kind, made, monkeypatch, bits):
    def trained():
        model = made(kind, replay_ratio=2)
        model.learn(6 * T * len(LENGTHS))
        assert model._n_replays > 2
        return bits(model.get_parameters()), model.replay_buffer.n_bytes

    parameters, n_bytes = trained()
    monkeypatch.setattr(buffer_module, "has_channels", lambda space: False)
    monkeypatch.setattr(replay_file, "has_channels", lambda space: False)
    parameters_of_whole, n_bytes_of_whole = trained()
    assert parameters == parameters_of_whole
    least, most = (0.6, 1.01) if kind == "augmented" else (0.2, 0.6)  # of the former only zeros come again
    assert least < n_bytes / n_bytes_of_whole < most


@pytest.mark.parametrize("kind", ["last", "dict", "augmented"])
@pytest.mark.parametrize("n_rollouts", [2, CAPACITY + 1])
def test_resumed_training_is_uninterrupted_training(kind, n_rollouts, made, stacked, bits, tmp_path):
    n_steps = n_rollouts * T * len(LENGTHS)

    def continued(model):
        model.set_env(stacked(kind))
        model.get_env().seed(3)
        model.set_random_seed(3)
        model.learn(n_steps, reset_num_timesteps=False)
        return bits(model.get_parameters()), contents(model.replay_buffer), model.replay_buffer.n_bytes

    model = made(kind).learn(n_steps)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = ACER.load(tmp_path / "model", stacked(kind), device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay")
    assert contents(loaded.replay_buffer) == contents(model.replay_buffer)
    assert continued(loaded) == continued(model)


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(made, bits, tmp_path):
    n_steps = (CAPACITY + 2) * T * len(LENGTHS)
    uninterrupted = made("last").learn(2 * n_steps)
    made("last", checkpoint_folder=str(tmp_path), checkpoint_every=CAPACITY + 2).learn(n_steps)
    resumed = made("last", checkpoint_folder=str(tmp_path), checkpoint_every=CAPACITY + 2)
    resumed.learn(2 * n_steps)
    assert resumed.num_timesteps == uninterrupted.num_timesteps == 2 * n_steps
    assert bits(resumed.get_parameters()) == bits(uninterrupted.get_parameters())
    assert contents(resumed.replay_buffer) == contents(uninterrupted.replay_buffer)


N_ENVS, N_STEPS, FRAME = 16, 20, 84 * 84  # of the paper's Atari, with its 50 000 frames of each environment
PAPERS = 800_000


@pytest.fixture
def played(space_env):
    """``played(buffer, n)``: store n rollouts of stacks as they come from an environment."""
    picture = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    lengths = np.random.default_rng(0).integers(5, 60, N_ENVS)

    def play(buffer, n):
        one = [lambda length=length: space_env(picture, DISCRETE, length=length) for length in lengths]
        env = VecTransposeImage(VecFrameStack(DummyVecEnv(one), 4))
        last = env.reset()
        for _ in range(n):
            steps = [env.step(np.zeros(N_ENVS, int)) for _ in range(N_STEPS)]
            observations = np.stack([last, *(step[0] for step in steps)])
            dones, last = np.stack([step[2] for step in steps]), steps[-1][0]
            zeros = np.zeros(dones.shape, np.float32)
            statistics = np.zeros((*dones.shape, 3), np.float32)
            buffer.add(buffer_module.Sequences(observations, zeros.astype(int), zeros, statistics, dones))

    return play


def atari_buffer(buffer_size):
    stack = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    return buffer_module.SequenceReplayBuffer(buffer_size, N_STEPS, N_ENVS, stack, DISCRETE, 3)


def held(buffer):
    """Bytes of everything that a buffer holds in arrays."""
    return sum(array.nbytes for array in buffer._arrays.values()) + sum(array.nbytes for array in buffer._channels[""])


def test_memory_of_a_part_of_the_papers_buffer(played):
    """A sequence of T steps has T new frames and the 4 of its first stack; where episodes start one of zeros, too."""
    buffer = atari_buffer(8 * N_STEPS * N_ENVS)
    played(buffer, 10)
    n_sequences = 8 * N_ENVS
    frames = sum(len(channels) for channels in buffer._channels[""])
    assert n_sequences * N_STEPS < frames <= n_sequences * (N_STEPS + 4) + 8
    assert held(buffer) == buffer.n_bytes <= 8e9 * len(buffer) / PAPERS


def test_memory_of_the_papers_buffer(played):
    """At most 8 GB, where whole stacks would take 23.7; by what its first rollout needs."""
    buffer = atari_buffer(PAPERS)
    played(buffer, 1)
    rest = PAPERS * (8 + 4 + 3 * 4 + 1) + PAPERS // N_STEPS * (N_STEPS + 1) * 4 * 4
    largest = PAPERS // N_STEPS * (N_STEPS + 4) * FRAME + rest
    assert 0.85 * largest < buffer.n_bytes <= largest + buffer.capacity * FRAME <= 8e9
    assert PAPERS // N_STEPS * (N_STEPS + 1) * 4 * FRAME > 23.7e9


def test_a_buffer_of_images_that_will_not_fit_is_named_after_the_first_rollout(played, monkeypatch):
    monkeypatch.setattr(buffer_module, "_memory", lambda: 5_000_000_000)
    buffer = atari_buffer(PAPERS)
    with pytest.warns(UserWarning, match=r"of 800000 steps will need [67]\.\d GB .*it observations\).*only 5\.0 GB"):
        played(buffer, 1)
    monkeypatch.setattr(buffer_module, "_memory", lambda: 8_000_000_000)
    played(atari_buffer(PAPERS), 1)


def test_gymnasiums_stacks_are_stored_once_too(made):
    """They begin with an episode's first frame again and again, so there is one new frame in every image."""
    model = made("gymnasium's").learn(T * len(LENGTHS))
    assert len(model.replay_buffer._channels[""][0]) == (T + 1) * len(LENGTHS)
