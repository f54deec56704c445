"""The file format of sb3-contrib's TRPO, and of earlier versions of this package's."""

import warnings
from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

# Two settings that became one.
OLD_FAST = ("fast_kernels", "fast_collection")


def unsaid(saved: dict[str, Any]) -> dict[str, Any]:
    """
    :param saved: settings as they stand in a file
    :return: those that it leaves out, because whoever saved it had no such argument. A file of sb3-contrib's goes on
        training with the KL that its ``target_kl`` meant, and with its critic.
    """
    if "kl_reduction" not in saved:
        return {"kl_reduction": "mean", "critic": "adam", "critic_gae_lambda": None}
    missing: dict[str, Any] = {}
    if "_timesteps_before" not in saved:
        missing |= {"_target_kl_falls": False, "critic_gae_lambda": None}
    if "fast" not in saved:
        missing |= {"fast": all(saved.get(name, True) for name in OLD_FAST)}
    return missing


def usable(
    parameters: dict[str, Any], policy: ActorCriticPolicy, critic_parameters: Sequence[nn.Parameter]
) -> dict[str, Any]:
    """
    sb3-contrib saves the state of an optimizer of the whole policy; ours has the critic's parameters only.

    :param parameters: state dictionaries by name
    :param policy: that they are for, with its optimizer
    :param critic_parameters: those of the policy that the optimizer has
    :return: the same with the critic's part of the optimizer's state
    """
    saved, everything = parameters.get("policy.optimizer"), list(policy.parameters())
    if saved is None:
        return parameters
    size = len(saved["param_groups"][0]["params"])
    if size == len(critic_parameters):
        return parameters
    if size != len(everything):
        warnings.warn(
            f"The saved state of the optimizer is of {size} parameters, the critic has {len(critic_parameters)}: the "
            "optimizer starts afresh.",
            stacklevel=5,
        )
        return {**parameters, "policy.optimizer": policy.optimizer.state_dict()}
    own = {id(parameter) for parameter in critic_parameters}
    kept = [index for index, parameter in enumerate(everything) if id(parameter) in own]
    # Which form of the optimizer runs is not for the file to say.
    group = {**saved["param_groups"][0], "fused": policy.optimizer.param_groups[0].get("fused")}
    part = {
        "state": {new: saved["state"][old] for new, old in enumerate(kept) if old in saved["state"]},
        "param_groups": [{**group, "params": list(range(len(kept)))}],
    }
    return {**parameters, "policy.optimizer": part}
