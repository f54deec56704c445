"""Which optimizer the arguments of ACER ask for, and what it takes of a saved one."""

import warnings
from typing import TYPE_CHECKING, Any

import torch

from sb3_trpo_ext.kernels.vector import are_the_same

if TYPE_CHECKING:
    from sb3_trpo_ext.acer.acer import ACER


def optimizer_of(model: "ACER") -> torch.optim.Optimizer:
    """
    The optimizer of a policy, in its form for many small tensors; one that ``policy_kwargs`` name is taken as it is, if
    it has all of the policy's parameters.

    :param model: whose settings have been checked
    """
    if "optimizer_class" in model.policy_kwargs:
        present = model.policy.optimizer
        has = [parameter for group in present.param_groups for parameter in group["params"]]
        if are_the_same(has, model.policy.parameters()):
            return present
        kwargs: dict[str, Any] = {"lr": model.lr_schedule(1), **model.policy.optimizer_kwargs}
        return model.policy.optimizer_class(model.policy.parameters(), **kwargs)
    parameters, learning_rate = model.policy.parameters(), model.lr_schedule(1)
    given = model.policy_kwargs.get("optimizer_kwargs") or {}
    if model.use_rms_prop:
        settings = {"alpha": 0.99, "eps": model.rms_prop_eps, "foreach": True} | given
        return torch.optim.RMSprop(parameters, learning_rate, **settings)
    return torch.optim.Adam(parameters, learning_rate, **({"eps": 1e-5, "fused": True} | given))


def usable_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer, is_rms_prop: bool) -> dict[str, Any]:
    """
    The state of RMSProp is not put into Adam, nor the reverse: the optimizer then starts afresh.

    :param saved: state dictionary
    :param optimizer: that is to have it, one of the two
    :param is_rms_prop: which
    """
    if ("alpha" in saved["param_groups"][0]) != is_rms_prop:  # of the two, only RMSProp has an alpha
        warnings.warn(
            "The saved state is of another optimizer than use_rms_prop asks for: the optimizer starts afresh.",
            stacklevel=6,
        )
        return optimizer.state_dict()
    if not is_rms_prop:
        return saved
    # What was saved would replace ε too, and ACER.load(path, rms_prop_eps=…) would have no effect.
    eps = optimizer.defaults["eps"]
    return saved | {"param_groups": [group | {"eps": eps} for group in saved["param_groups"]]}
