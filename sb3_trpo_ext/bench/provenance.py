"""What a figure must carry to be worth something: code, versions, machine, load."""

import os
import platform
import shlex
import subprocess
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("sb3-trpo-ext", "sb3-contrib", "stable-baselines3", "torch", "numpy", "gymnasium", "mujoco", "box2d")
IDLE = 0.3  # load average up to which a machine counts as idle


def provenance(command: str) -> dict[str, Any]:
    """
    :param command: that makes the figures
    :return: ready for JSON; it names no user, host or folder
    """
    return {
        "command": command,
        "commit": commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            **gpu(),
        },
        "load_average": load_average(),
    }


def commit() -> str | None:
    """The commit of the checkout that this code is in, marked "modified" if it is; None when there is none."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty= modified"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        tracked = subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=folder, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    # An installed package may lie inside a checkout of something else.
    return described.stdout.strip() if tracked.returncode == 0 else None


def cpu_model() -> str:
    """The kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu() -> dict[str, str | None]:
    """The graphics processor that torch takes first, its driver, and torch's CUDA; empty when there is none."""
    if not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "driver": _driver(), "cuda": torch.version.cuda}


def _driver() -> str | None:
    """As NVIDIA's own program names it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next(iter(told.split()), None)


def load_average() -> float | None:
    """Over the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def warn_if_busy(load: float | None) -> None:
    """
    :param load: average of the last minute
    """
    if load is not None and load > IDLE:
        warnings.warn(
            f"The load average is {load}: other work runs on this machine and disturbs the figures. "
            "Wait until it is idle for figures to keep.",
            stacklevel=2,
        )


def command_line(arguments: list[str]) -> str:
    """
    The command as another would type it, without folders of this machine.

    :param arguments: of ``python -m sb3_trpo_ext.bench``
    """
    kept = list(arguments)
    if "--out" in kept:
        i = kept.index("--out")
        del kept[i : i + 2]
    return shlex.join(["python", "-m", "sb3_trpo_ext.bench", *(one for one in kept if not one.startswith("--out="))])


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
