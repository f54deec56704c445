"""However training is interrupted, what is left is whole."""

import signal
import threading

import numpy as np
import pytest
import torch

from sb3_trpo_ext.acer.interruption import signals_wait
from tests.acer.cases import ACTIONS, VECTOR
from tests.acer.sequences import VECTOR as OBSERVATION
from tests.acer.sequences import B, make_buffer, make_sequences, plain


@pytest.fixture(autouse=True)
def usual_handler():
    """That of Python, whatever the process was started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(torch.optim.SGD):
    """Moves one parameter after the other, and is interrupted in the middle of its fourth step."""

    n_steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.n_steps += 1
        for group in self.param_groups:
            for i, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad
                if i == 2 and self.n_steps == 4:
                    signal.raise_signal(signal.SIGINT)


class Uninterrupted(Interrupted):
    n_steps = -(10**9)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_interrupted_update_is_a_whole_one(action, space_env, tiny, bits):
    """Policy and average policy are those after the fourth of seven steps; training goes on from there."""

    def made(optimizer):
        sgd = {"optimizer_class": optimizer, "optimizer_kwargs": {}, "normalize_observations": False}
        return tiny(space_env(VECTOR, ACTIONS[action]), learning_rate=0.1, replay_ratio=0, policy_kwargs=sgd)

    other, earlier = made(Uninterrupted).learn(24), made(Uninterrupted).learn(18)
    model = made(Interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.learn(42)
    names = ("policy", "average_policy")
    left, expected, before = ([bits(each.get_parameters()[name]) for name in names] for each in (model, other, earlier))
    assert left == expected and left != before
    model.learn(6, reset_num_timesteps=False)
    assert [bits(model.get_parameters()[name]) for name in names] != left


def test_signals_wait_for_the_end_and_are_not_lost():
    seen = []
    with pytest.raises(KeyboardInterrupt):
        with signals_wait():
            signal.raise_signal(signal.SIGINT)
            seen.append("inside")
        seen.append("never")
    assert seen == ["inside"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_exception_ends_the_wait_too():
    with pytest.raises(ZeroDivisionError):
        with signals_wait():
            raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_signals_without_a_handler_in_python_are_left_alone(handler):
    signal.signal(signal.SIGINT, handler)
    with signals_wait():
        assert signal.getsignal(signal.SIGINT) is handler
    assert signal.getsignal(signal.SIGINT) is handler


def test_in_another_thread_there_is_nothing_to_wait_for():
    seen = []

    def work():
        with signals_wait():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_sequence_is_stored_whole_or_not_at_all(tmp_path):
    """Also where an older one lies, of which nothing is left."""

    class Interrupting(np.ndarray):
        def swapaxes(self, *axes):
            signal.raise_signal(signal.SIGINT)
            return super().swapaxes(*axes)

    buffer, added = make_buffer(capacity=2), [make_sequences(OBSERVATION, ACTIONS["discrete"], i) for i in range(4)]
    for sequences in added[:3]:
        buffer.add(sequences)
    object.__setattr__(added[3], "rewards", added[3].rewards.view(Interrupting))
    with pytest.raises(KeyboardInterrupt):
        buffer.add(added[3])
    for slot, sequences in enumerate((added[2], added[3])):
        stored = buffer.get(np.full(B, slot))
        assert all(plain(stored, env) == plain(sequences, env) for env in range(B))
    buffer.save(tmp_path / "file")
    buffer.load(tmp_path / "file")
    assert buffer.n_stored == 2
