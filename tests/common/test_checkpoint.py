"""Folders of checkpoints: which is the newest, what stays, random states."""

import random

import numpy as np
import pytest
import torch

from sb3_trpo_ext.common import checkpoint
from sb3_trpo_ext.common.ranks import ALONE


def write(folder, number, state=None):
    return checkpoint.write(
        folder,
        number,
        save_model=lambda path: path.write_bytes(b"a model"),
        save_own_part=lambda path: checkpoint.save_part(path, 0, state or {"n": number}),
        ranks=ALONE,
    )


def test_one_that_was_written_is_read(tmp_path):
    folder = write(tmp_path / "new", 12)
    assert checkpoint.newest(tmp_path / "new") == folder
    assert (folder / checkpoint.MODEL).read_bytes() == b"a model"
    assert checkpoint.load_part(folder, 0) == {"n": 12}


def test_there_is_none_in_a_folder_that_is_empty_or_missing(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "missing") is None


def test_the_newest_three_are_kept_by_their_number(tmp_path):
    for number in (9, 10, 100, 1000, 20_000):
        write(tmp_path, number)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{n:012d}" for n in (100, 1000, 20_000)]
    assert checkpoint.newest(tmp_path).name == "checkpoint-000000020000"


def test_one_of_the_same_number_is_replaced(tmp_path):
    write(tmp_path, 5, {"which": "first"})
    folder = write(tmp_path, 5, {"which": "second"})
    assert checkpoint.load_part(folder, 0) == {"which": "second"}


def test_one_that_was_not_finished_does_not_count_and_is_cleared_away(tmp_path):
    def fails(path):
        raise OSError("no space left on device")

    write(tmp_path, 1)
    with pytest.raises(OSError, match="no space"):
        checkpoint.write(tmp_path, 2, lambda path: path.write_bytes(b""), fails, ALONE)
    assert checkpoint.newest(tmp_path).name == "checkpoint-000000000001"
    write(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{n:012d}" for n in (1, 3)]


def test_what_others_have_put_there_is_left_alone(tmp_path):
    (tmp_path / "checkpoint-best.zip").write_bytes(b"")
    (tmp_path / "checkpoint-000000000009").mkdir()  # without a model
    (tmp_path / "checkpoint-000000000001-keep").mkdir()
    for number in range(5):
        write(tmp_path, number)
    assert checkpoint.newest(tmp_path).name == "checkpoint-000000000004"
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint-best.zip", "checkpoint-000000000009", "checkpoint-000000000001-keep"} <= names


def test_one_that_is_being_deleted_has_no_name(tmp_path, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    write(tmp_path, 5, {"which": "first"})
    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 5, {"which": "second"})
    assert checkpoint.newest(tmp_path) is None


def test_a_damaged_part_is_named(tmp_path):
    folder = write(tmp_path, 1)
    (folder / "rank-0.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"rank-0.pt is damaged"):
        checkpoint.load_part(folder, 0)


def test_random_numbers_go_on():
    def numbers():
        return random.random(), np.random.rand(), float(torch.rand(()))

    states = checkpoint.random_states()
    expected = numbers()
    checkpoint.set_random_states(states)
    assert numbers() == expected
