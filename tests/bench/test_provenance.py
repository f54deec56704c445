"""What a figure carries, and what it must not."""

import shlex
import subprocess
from types import SimpleNamespace

import pytest
import torch

from sb3_trpo_ext.bench import provenance


def test_a_busy_machine_is_warned_about():
    with pytest.warns(UserWarning, match=r"load average is 1\.5"):
        provenance.warn_if_busy(1.5)


def test_an_idle_machine_is_not_warned_about(recwarn):
    provenance.warn_if_busy(0.1)
    provenance.warn_if_busy(None)
    assert not recwarn.list


@pytest.mark.parametrize("out", [["--out", "/home/somebody/results"], ["--out=/home/somebody/results"]])
def test_the_command_names_no_folder(out):
    assert provenance.command_line(["speed", *out, "--quick"]) == "python -m sb3_trpo_ext.bench speed --quick"


def test_the_command_can_be_pasted():
    command = "python -m sb3_trpo_ext.bench speed --cases 'two words' \"it's\""
    assert shlex.split(provenance.command_line(["speed", "--cases", "two words", "it's"])) == shlex.split(command)


def test_code_versions_machine_and_load_are_told():
    document = provenance.provenance("the command")
    assert document["command"] == "the command"
    assert document.keys() == {"command", "commit", "versions", "machine", "load_average"}
    assert {"python", "torch", "sb3-contrib", "stable-baselines3"} <= document["versions"].keys()
    assert document["machine"]["cores"] >= 1 and document["machine"]["cpu"]


def test_a_gpu_is_told_with_its_driver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a graphics processor")
    program = SimpleNamespace(stdout="580.1\n580.1\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: program)
    assert provenance.gpu() == {"gpu": "a graphics processor", "driver": "580.1", "cuda": torch.version.cuda}
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: open("/no such program"))
    assert provenance.gpu()["driver"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert provenance.gpu() == {}
