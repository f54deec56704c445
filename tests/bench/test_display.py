"""How far training is: a line for each run that ended, and one for those that are running."""

import os
import time
from types import SimpleNamespace

import pytest

from sb3_trpo_ext.bench import display
from sb3_trpo_ext.bench.display import Display


@pytest.fixture
def running(runs):
    """A run that has taken two minutes for the first half, with a mean return of 12."""
    (run,) = runs(0)
    return SimpleNamespace(run=run, started=time.monotonic() - 120, state=lambda: (0.5, 12.0))


def test_the_first_line_counts_the_runs(capsys):
    Display(1, 0)
    Display(3, 2)
    assert capsys.readouterr().out == "1 run, 0 finished earlier\n3 runs, 2 finished earlier\n"


def test_without_a_terminal_the_running_ones_are_shown_now_and_then(running, capsys, monkeypatch):
    shown = Display(3, 1)
    capsys.readouterr()
    shown.show([running], waiting=1)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(display, "SIGN_OF_LIFE", 0.0)
    shown.show([running], waiting=1)
    expected = "[1/3] about 2 min left: trpo_ext CartPole-v1 10 seed 0 50% (12.0)\n"
    assert capsys.readouterr().out == expected


def test_what_waits_takes_as_long_as_what_has_ended(running, capsys, monkeypatch):
    monkeypatch.setattr(display, "SIGN_OF_LIFE", 0.0)
    shown = Display(3, 0)
    shown.ended(running, "no luck")
    shown.show([running], waiting=1)
    ended, still = capsys.readouterr().out.splitlines()[1:]
    assert ended.startswith("[1/3] ") and ended.endswith(" trpo_ext CartPole-v1 10 seed 0: FAILED: no luck")
    assert still.startswith("[1/3] about 4 min left: ")


def test_on_a_terminal_the_running_ones_have_one_line(running, capsys, monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    shown = Display(3, 1)
    shown.live = True
    capsys.readouterr()
    shown.show([running], waiting=1)
    shown.clear()
    assert capsys.readouterr().out == "\r\x1b[K[1/3] about 2 min l\r\x1b[K"
