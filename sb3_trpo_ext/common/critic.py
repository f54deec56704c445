"""Regression of the value function on the returns of a rollout."""

import math
import time
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sb3_trpo_ext.common.batch import Batch
from sb3_trpo_ext.common.network import PlainNetwork
from sb3_trpo_ext.common.observations import Observations, each
from sb3_trpo_ext.kernels.chain import ChainLinearization
from sb3_trpo_ext.kernels.vector import assign, flatten, unflatten


@dataclass(frozen=True)
class CriticFit:
    """
    :param value_loss: mean squared error, averaged over the minibatches as they were visited
    :param explained_variance: of the returns by the values predicted *during the rollout*, in (−∞, 1]
    :param finite: False when a loss was not finite, and no step was taken from there on; or when the parameters or the
        optimizer's memory were not in the end, and both were put back as before the fit
    :param seconds: wall-clock time
    """

    value_loss: float
    explained_variance: float
    finite: bool
    seconds: float

    def logged(self) -> dict[str, float]:
        return {
            "train/value_loss": self.value_loss,
            "train/explained_variance": self.explained_variance,
            "train/is_critic_finite": float(self.finite),
            "time/critic_seconds": self.seconds,
        }


def fit_critic(
    policy: ActorCriticPolicy,
    parameters: list[nn.Parameter],
    network: PlainNetwork | None,
    batch: Batch,
    batch_size: int,
    n_epochs: int,
) -> CriticFit:
    """
    Minibatch gradient descent on the mean squared error between values and returns.

    :param policy: its ``optimizer`` holds exactly ``parameters``
    :param parameters: of the critic alone; what it shares with the actor, and what is frozen, stays as it is
    :param network: the critic as a chain of layers; None for autograd
    :param batch: all N samples of a rollout
    :param batch_size: samples per gradient step
    :param n_epochs: passes over the samples, each in a new order drawn from numpy's global generator, as SB3 does
    """
    started = time.perf_counter()
    before = flatten(parameters), deepcopy(policy.optimizer.state_dict())
    if network is not None and all(parameter.requires_grad for parameter in network.parameters):
        squared_error: SquaredError = ChainSquaredError(network, batch)
    else:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        squared_error = AutogradSquaredError(policy, trained, batch)
    losses: list[float] = []
    finite = True
    for _ in range(n_epochs):
        order = torch.from_numpy(np.random.permutation(len(batch.returns))).to(batch.returns.device)
        for rows in torch.split(order, batch_size):
            losses.append(squared_error.differentiate(rows))
            finite = finite and math.isfinite(losses[-1])
            if finite:
                policy.optimizer.step()
    if not _is_finite(policy.optimizer):
        finite = False
        assign(parameters, before[0])
        policy.optimizer.load_state_dict(before[1])
    explained = float(explained_variance(batch.values.cpu().numpy(), batch.returns.cpu().numpy()))
    return CriticFit(fmean(losses), explained, finite, time.perf_counter() - started)


def critic_optimizer(
    policy: ActorCriticPolicy, parameters: list[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """
    The optimizer that the policy's settings ask for, over the critic alone.

    :param policy: with ``optimizer_class`` and ``optimizer_kwargs``
    :param parameters: to train
    :param learning_rate: to start with
    """
    settings = dict(policy.optimizer_kwargs)
    # The same arithmetic in one call instead of dozens, which on small networks is most of a step's time.
    if policy.optimizer_class is torch.optim.Adam and not {"fused", "foreach", "capturable"} & settings.keys():
        settings["fused"] = True
    return policy.optimizer_class(parameters, lr=learning_rate, **settings)  # type: ignore[call-arg]


def _is_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its parameters are finite, and what it remembers of their gradients."""
    tensors = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors += [item for state in optimizer.state.values() for item in state.values() if isinstance(item, Tensor)]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


class SquaredError(Protocol):
    """The mean squared error between values and returns, as a function of the critic's parameters."""

    def differentiate(self, rows: Tensor) -> float:
        """
        Write the gradient of the error on some samples into the parameters' ``grad``.

        :param rows: indices of B samples
        :return: the error
        """
        ...


class AutogradSquaredError:
    """
    The mean squared error of any critic.

    :param policy: that the critic belongs to
    :param parameters: whose gradients are wanted
    :param batch: N samples
    """

    def __init__(self, policy: ActorCriticPolicy, parameters: list[nn.Parameter], batch: Batch):
        self._policy = policy
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._batch = batch

    def differentiate(self, rows: Tensor) -> float:
        """As :meth:`SquaredError.differentiate`."""
        values = self._policy.predict_values(_select(self._batch.observations, rows)).flatten()
        loss = mse_loss(values, self._batch.returns[rows])
        self._policy.optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=self._parameters)
        return loss.item()


class ChainSquaredError:
    """
    The mean squared error of a critic that is a chain of layers; the same numbers with a quarter of the overhead.

    :param network: of the critic
    :param batch: N samples
    """

    def __init__(self, network: PlainNetwork, batch: Batch):
        self._network = network
        self._parameters = network.parameters
        # Pixels become floats only a minibatch at a time: four times less memory.
        self._inputs = batch.observations if network.from_pixels else network.inputs(batch.observations)
        self._targets = batch.returns.unsqueeze(1)

    @torch.no_grad()
    def differentiate(self, rows: Tensor) -> float:
        """As :meth:`SquaredError.differentiate`."""
        inputs = _select(self._inputs, rows)
        if self._network.from_pixels:
            inputs = self._network.inputs(inputs)
        assert isinstance(inputs, Tensor)
        linearization = ChainLinearization(self._network.layers, inputs)
        error = linearization.value[0] - self._targets.index_select(0, rows)
        gradient = linearization.vjp((error * (2 / len(rows)),))
        for parameter, piece in zip(self._parameters, unflatten(gradient, self._parameters), strict=True):
            parameter.grad = piece
        return float(error.square().mean())


def _select(observations: Observations, rows: Tensor) -> Observations:
    return each(lambda tensor: tensor.index_select(0, rows), observations)
