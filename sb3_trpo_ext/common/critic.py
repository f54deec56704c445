"""Regression of the value function on the returns of a rollout."""

import math
import time
from dataclasses import dataclass
from statistics import fmean

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from torch import nn
from torch.nn.functional import mse_loss


@dataclass(frozen=True)
class CriticFit:
    """
    :param value_loss: mean squared error, averaged over the minibatches as they were visited
    :param explained_variance: of the returns by the values predicted *during the rollout*, in (−∞, 1]
    :param finite: False when a loss was not finite; no step was taken from there on
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
            "time/critic_seconds": self.seconds,
        }


def fit_critic(
    policy: ActorCriticPolicy,
    parameters: list[nn.Parameter],
    buffer: RolloutBuffer,
    batch_size: int,
    n_epochs: int,
) -> CriticFit:
    """
    Minibatch gradient descent on the mean squared error between values and returns.

    :param policy: its ``optimizer`` holds exactly ``parameters``
    :param parameters: of the critic alone; what it shares with the actor, and what is frozen, stays as it is
    :param buffer: filled, with returns computed
    :param batch_size: samples per gradient step
    :param n_epochs: passes over the buffer
    """
    started = time.perf_counter()
    losses: list[float] = []
    finite = True
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    explained = float(explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
    for _ in range(n_epochs):
        for samples in buffer.get(batch_size):
            loss = mse_loss(policy.predict_values(samples.observations).flatten(), samples.returns)
            losses.append(loss.item())
            finite = finite and math.isfinite(losses[-1])
            if finite:
                policy.optimizer.zero_grad()
                torch.autograd.backward(loss, inputs=trained)
                policy.optimizer.step()
    return CriticFit(fmean(losses), explained, finite, time.perf_counter() - started)
