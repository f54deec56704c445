"""
Peak memory of both sides, each in a process of its own::

    python -m sb3_trpo_ext.bench.memory image/16env/8192
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sb3_trpo_ext.bench.cases import UpdateCase, by_name
from sb3_trpo_ext.bench.contenders import contrib, ours, prepare, train_once, update_once

MODULE = "sb3_trpo_ext.bench.memory"
SIDES = {"sb3-contrib": contrib, "ours": ours}
IMPORTS = "imports"
UPDATES = 2


@dataclass(frozen=True)
class PeakMemory:
    """
    :param case: name of the case
    :param contrib: the most that sb3-contrib's process held, MB
    :param ours: the most that ours held, MB
    :param imports: the same of a process that imports both and does nothing, MB
    """

    case: str
    contrib: float
    ours: float
    imports: float

    @property
    def ratio(self) -> float:
        """Ours over sb3-contrib's; below 1 we take less."""
        return self.ours / self.contrib

    @property
    def ratio_beyond_imports(self) -> float:
        """The same of what is taken on top of the imports."""
        return (self.ours - self.imports) / (self.contrib - self.imports)

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        ratios = {"ratio": round(self.ratio, 3), "ratio_beyond_imports": round(self.ratio_beyond_imports, 3)}
        return {**asdict(self), **ratios}


def peak_memory(name: str) -> PeakMemory:
    """
    :param name: of a case
    """
    processes = {
        side: subprocess.Popen([sys.executable, "-m", MODULE, name, side], stdout=subprocess.PIPE, text=True)
        for side in (*SIDES, IMPORTS)
    }
    megabytes = {side: float(process.communicate()[0]) for side, process in processes.items()}
    return PeakMemory(name, megabytes["sb3-contrib"], megabytes["ours"], megabytes[IMPORTS])


def main(name: str, side: str | None = None) -> None:
    """
    Print this process's peak memory in MB, after a few updates with one thread.

    :param name: of a case
    :param side: a key of ``SIDES``, or ``IMPORTS`` for no updates at all; None for all of them and their ratios
    """
    if side is None:
        print(json.dumps(peak_memory(name).document()))
        return
    torch.set_num_threads(1)
    if side != IMPORTS:
        case = by_name(name)
        contender = SIDES[side](case, seed=0)
        if isinstance(case, UpdateCase):
            prepare([contender], seed=0)
        for turn in range(UPDATES):
            if isinstance(case, UpdateCase):
                update_once(contender)
            else:
                train_once(contender, seed=turn)
    print(_peak())


def _peak() -> float:
    """
    MB. Linux hands the maximum of ``getrusage`` on from the parent process, which may be larger than this one; its
    high-water mark in /proc starts anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / 2**20 if sys.platform == "darwin" else usage / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
