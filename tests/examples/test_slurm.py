"""examples/slurm.sh, with programs in the place of Slurm's that start both machines' launchers on this one."""

import os
import subprocess
import sys

import torch

from tests.processes import ROOT, free_port

SRUN = """#!/bin/bash
for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
"""
SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames first-[1-2]" ] && printf '127.0.0.1\\n127.0.0.2\\n'
"""


def test_two_machines_meet(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    out = tmp_path / "out"
    out.mkdir()
    variables = {"SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NODELIST": "first-[1-2]"}
    ended = subprocess.run(
        ["bash", str(ROOT / "examples/slurm.sh"), "-m", "tests.programs", "resumable", str(out)],
        env={
            **os.environ,
            **variables,
            "PORT": str(free_port()),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "VIRTUAL_ENV": sys.prefix,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    answers = [torch.load(out / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [answer["updates"] for answer in answers] == [10, 10]
