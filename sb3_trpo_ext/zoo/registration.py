"""What RL Zoo is told about each of our algorithms, and where in RL Zoo it is told."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_trpo_ext
from sb3_trpo_ext.zoo.samplers import (
    convert_acer,
    convert_on_policy,
    convert_recurrent,
    sample_acer,
    sample_recurrent,
    sample_trpo,
)


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
    "trpo_lstm": ZooAlgorithm(sb3_trpo_ext.RecurrentTRPO, sample_recurrent, convert_recurrent),
    "trpo_mask": ZooAlgorithm(sb3_trpo_ext.MaskableTRPO, sample_trpo, convert_on_policy),
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
    for name in PLACES:
        register_in(import_module(name))


def register_in(module: Any) -> None:
    """
    Make our algorithms known to one module of RL Zoo, which the start-up hook does once that module has run.

    :param module: whose name is a key of :data:`PLACES`
    """
    PLACES[module.__name__](module)


def _add_classes(utils: Any) -> None:
    """
    :param utils: ``rl_zoo3.utils``
    """
    # Other modules hold references to this dictionary, as to the next two, so it is changed in place.
    utils.ALGOS.update({key: entry.algorithm for key, entry in ALGORITHMS.items()})


def _add_search_spaces(hyperparams_opt: Any) -> None:
    """
    :param hyperparams_opt: ``rl_zoo3.hyperparams_opt``
    """
    hyperparams_opt.HYPERPARAMS_SAMPLER.update({key: entry.sample for key, entry in ALGORITHMS.items()})
    hyperparams_opt.HYPERPARAMS_CONVERTER.update({key: entry.convert for key, entry in ALGORITHMS.items()})


def _find_our_hyperparams(exp_manager: Any) -> None:
    """
    RL Zoo looks for ``hyperparams/<algo>.yml`` in its own folder only. For our algorithms, and unless ``--conf-file``
    is given, let it find ours. The constructor is replaced, not the class: other modules already hold the class.

    :param exp_manager: ``rl_zoo3.exp_manager``
    """
    construct = exp_manager.ExperimentManager.__init__
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
    exp_manager.ExperimentManager.__init__ = construct_with_our_default


#: Module of RL Zoo → what to do there.
PLACES: dict[str, Callable[[Any], None]] = {
    "rl_zoo3.utils": _add_classes,
    "rl_zoo3.hyperparams_opt": _add_search_spaces,
    "rl_zoo3.exp_manager": _find_our_hyperparams,
}
