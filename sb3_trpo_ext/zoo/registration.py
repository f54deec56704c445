"""What RL Zoo is told about each of our algorithms, and where in RL Zoo it is told."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_trpo_ext
from sb3_trpo_ext.zoo.samplers import convert_acer, convert_on_policy, sample_acer, sample_trpo


class ZooAlgorithm(NamedTuple):
    """
    One algorithm as RL Zoo sees it.

    :param algorithm: the class to construct and to load
    :param sample: draws hyperparameters for ``-optimize``: ``(trial, n_actions, n_envs, additional_args)`` to keyword
        arguments of the constructor
    :param convert: the parameters of a stored trial to keyword arguments of the constructor
    """

    algorithm: type[BaseAlgorithm]
    sample: Callable[..., dict[str, Any]]
    convert: Callable[[dict[str, Any]], dict[str, Any]]


#: By the name given to ``--algo``, which is also the name of the file in ``hyperparams/``.
ALGORITHMS = {
    "acer": ZooAlgorithm(sb3_trpo_ext.ACER, sample_acer, convert_acer),
    "trpo_ext": ZooAlgorithm(sb3_trpo_ext.TRPO, sample_trpo, convert_on_policy),
}


def hyperparams_file(algo: str) -> Path:
    """
    The file with our settings for an algorithm, wherever the package is installed.

    :param algo: a key of :data:`ALGORITHMS`
    :return: path of the YAML file
    """
    package = Path(sb3_trpo_ext.__file__).parent
    installed = package / "hyperparams"
    # In a checkout, and so in an editable install, the folder is beside the package.
    folder = installed if installed.is_dir() else package.parent / "hyperparams"
    return folder / f"{algo}.yml"


def register() -> None:
    """
    Make our algorithms known to RL Zoo in this process. Calling it again changes nothing.

    :raises ModuleNotFoundError: if RL Zoo (the ``zoo`` extra) is not installed
    """
    from rl_zoo3.exp_manager import ExperimentManager
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    # RL Zoo's modules hold references to these three dictionaries, so they are changed in place.
    for key, entry in ALGORITHMS.items():
        ALGOS[key] = entry.algorithm
        HYPERPARAMS_SAMPLER[key] = entry.sample
        HYPERPARAMS_CONVERTER[key] = entry.convert  # type: ignore[assignment]  # its type has the name of an argument
    _find_our_hyperparams(ExperimentManager)


def _find_our_hyperparams(manager: Any) -> None:
    """
    RL Zoo looks for ``hyperparams/<algo>.yml`` in its own folder only. For our algorithms, and unless ``--conf-file``
    is given, let it find ours. The constructor is replaced, not the class: other modules already hold the class.

    :param manager: ``rl_zoo3.exp_manager.ExperimentManager``
    """
    construct = manager.__init__
    if getattr(construct, "finds_sb3_trpo_ext", False):
        return
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def construct_with_our_default(*args: Any, **kwargs: Any) -> None:
        call = signature.bind(*args, **kwargs)
        if call.arguments["algo"] in ALGORITHMS and not call.arguments.get("config"):
            call.arguments["config"] = str(hyperparams_file(call.arguments["algo"]))
        construct(*call.args, **call.kwargs)

    construct_with_our_default.finds_sb3_trpo_ext = True  # type: ignore[attr-defined]
    manager.__init__ = construct_with_our_default
