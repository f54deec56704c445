"""Which optimizer the arguments of ACER ask for, and what it takes of a saved one."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sb3_trpo_ext.kernels.vector import are_the_same

if TYPE_CHECKING:
    from sb3_trpo_ext.acer.acer import ACER


class RMSprop(torch.optim.RMSprop):
    """
    PyTorch's, but the running average of the squared gradients begins with the first of them. PyTorch's begins with 0,
    so that the first step of every weight is 1 / √(1 − α) times the learning rate, with α = 0.99 ten times.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = _first_state(parameter.grad, group)
        return super().step(closure)  # type: ignore[no-any-return]


def _first_state(gradient: torch.Tensor, group: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What RMSProp remembers of a weight before its first step, by PyTorch's names."""
    state = {"step": torch.zeros(()), "square_avg": gradient.square()}
    if group["momentum"] > 0:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    if group["centered"]:
        state["grad_avg"] = torch.zeros_like(gradient)
    return state


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
        return RMSprop(parameters, learning_rate, **settings)
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
