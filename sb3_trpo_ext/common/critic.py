"""Regression of the value function on the returns of a rollout."""

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Protocol

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from torch import Tensor
from torch.nn.functional import mse_loss

from sb3_trpo_ext.common.actor import Actor
from sb3_trpo_ext.common.batch import Batch
from sb3_trpo_ext.common.network import PlainNetwork, critic_network
from sb3_trpo_ext.common.observations import Observations, each
from sb3_trpo_ext.kernels.chain import Activations, ChainLinearization, forward
from sb3_trpo_ext.kernels.conjugate_gradient import conjugate_gradient
from sb3_trpo_ext.kernels.fisher import GaussNewton
from sb3_trpo_ext.kernels.line_search import Trial, backtrack
from sb3_trpo_ext.kernels.linearize import AutogradLinearization, Linearization
from sb3_trpo_ext.kernels.vector import assign, flatten

# Of the Gauss-Newton steps. Damping as for the policy; the rest only bounds the work.
DAMPING = 0.1
TOLERANCE = 1e-3
SHRINK = 0.5
MAX_TRIALS = 10


@dataclass(frozen=True)
class CriticFit:
    """
    :param value_loss: mean squared error, averaged over the fit as it went
    :param steps: of gradient descent or Gauss-Newton's that were taken, and not undone
    :param explained_variance: of the returns by the values predicted *before the fit*, in (−∞, 1]
    :param finite: False when a loss was not finite, and no step was taken from there on; or when the parameters or the
        optimizer's memory were not in the end, and both were put back as before the fit
    :param seconds: wall-clock time
    """

    value_loss: float
    steps: int
    explained_variance: float
    finite: bool
    seconds: float

    def logged(self) -> dict[str, float]:
        return {
            "train/value_loss": self.value_loss,
            "train/critic_steps": self.steps,
            "train/explained_variance": self.explained_variance,
            "train/is_critic_finite": float(self.finite),
            "time/critic_seconds": self.seconds,
        }


class Critic:
    """
    The part of a policy that predicts returns: its parameters w and the value V_w of each state.

    w is what the actor does not use. ``policy.optimizer`` is replaced by one of the same kind over w.

    :param policy: in evaluation mode
    :param actor: of the same policy
    :param learning_rate: of the optimizer, to start with
    :param fast: differentiate plain networks by hand; False for autograd always, with the same results
    """

    def __init__(self, policy: ActorCriticPolicy, actor: Actor, learning_rate: float, fast: bool = True):
        self.policy = policy
        self._all_parameters = actor.critic_parameters()
        self._plain = critic_network(policy, trains_extractor=not actor.shared_parameters()) if fast else None
        settings = dict(policy.optimizer_kwargs)
        # The same arithmetic in one call instead of dozens, which on small networks is most of a step's time.
        if policy.optimizer_class is torch.optim.Adam and not {"fused", "foreach", "capturable"} & settings.keys():
            settings["fused"] = True
        policy.optimizer = policy.optimizer_class(self._all_parameters, lr=learning_rate, **settings)  # type: ignore[call-arg]

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that are trained: all of w but what is frozen."""
        return [parameter for parameter in self._all_parameters if parameter.requires_grad]

    @property
    def network(self) -> PlainNetwork | None:
        """w → V as a chain that is differentiated by hand; None when autograd does it."""
        plain = self._plain
        if plain is None or list(map(id, plain.parameters)) != list(map(id, self.parameters)):
            return None
        return plain

    @torch.no_grad()
    def values(self, observations: Observations) -> Tensor:
        """V of n states, shape (n, 1)."""
        network = self.network
        if network is None:
            return self.policy.predict_values(observations)
        return forward(network.layers, network.inputs(observations))

    def linearize(self, observations: Observations) -> Linearization:
        """w → V of n states, shape (n, 1), and how it changes with w."""
        network = self.network
        if network is None:
            return AutogradLinearization((self.policy.predict_values(observations),), self.parameters)
        return ChainLinearization(network.layers, network.inputs(observations))

    def squared_error(self, batch: Batch) -> "SquaredError":
        """Of the values on the samples of a rollout."""
        network = self.network
        return AutogradSquaredError(self, batch) if network is None else ChainSquaredError(network, batch)

    def is_finite(self) -> bool:
        """Whether w is, and what the optimizer remembers of its gradients."""
        memory = [item for state in self.policy.optimizer.state.values() for item in state.values()]
        tensors = [*self._all_parameters, *(item for item in memory if isinstance(item, Tensor))]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def fit_by_gradient_descent(critic: Critic, batch: Batch, batch_size: int, n_epochs: int) -> CriticFit:
    """
    Minibatch gradient descent on the mean squared error between values and returns, with the policy's optimizer.

    :param critic: to train
    :param batch: all N samples of a rollout
    :param batch_size: samples per gradient step
    :param n_epochs: passes over the samples, each in a new order drawn from numpy's global generator, as SB3 does
    """
    started = time.perf_counter()
    optimizer = critic.policy.optimizer
    w_old, memory_old = flatten(critic.parameters), deepcopy(optimizer.state_dict())
    squared_error = critic.squared_error(batch)
    losses: list[float] = []
    steps = 0
    for rows in _minibatches(batch, batch_size, n_epochs):
        losses.append(squared_error.differentiate(rows))
        if not math.isfinite(losses[-1]):
            break
        optimizer.step()
        steps += 1
    finite = critic.is_finite()
    if not finite:
        assign(critic.parameters, w_old)
        optimizer.load_state_dict(memory_old)
        steps = 0
    return _fit(batch, losses, steps, finite, started)


def fit_in_trust_region(critic: Critic, batch: Batch, max_kl: float, n_solves: int, cg_max_steps: int) -> CriticFit:
    """
    Gauss-Newton steps within a trust region (Schulman et al. 2016, "High-dimensional continuous control using
    generalized advantage estimation", arXiv:1506.02438, section 5): each minimises the squared error subject to

        (1/N) Σ (V_w(s_n) − V_old(s_n))² / 2σ² ≤ ε,    σ² = (1/N) Σ (V_old(s_n) − R_n)²,

    a bound on the KL divergence between normal distributions of standard deviation σ around the old and new values.
    Where the paper takes one step per batch, this takes several, each from where the last one ended.

    :param critic: to train
    :param batch: all N samples of a rollout
    :param max_kl: ε > 0, in nats
    :param n_solves: at most this many steps
    :param cg_max_steps: limit of each step's conjugate gradient
    """
    started = time.perf_counter()
    losses: list[float] = []
    steps = 0
    for _ in range(n_solves):
        loss, moved = _gauss_newton_step(critic, batch, max_kl, cg_max_steps)
        losses.append(loss)
        if not moved:
            break
        steps += 1
    return _fit(batch, losses, steps, True, started)


def _gauss_newton_step(critic: Critic, batch: Batch, max_kl: float, cg_max_steps: int) -> tuple[float, bool]:
    """One step of :func:`fit_in_trust_region`: the error before it, and whether it was taken."""
    w_old, returns = flatten(critic.parameters), batch.returns.unsqueeze(1)
    linearization = critic.linearize(batch.observations)
    old = linearization.value[0]
    variance = float((old - returns).square().mean())  # σ²
    g = linearization.vjp(((returns - old) / len(returns),))  # −∇ of half the error
    H = GaussNewton(linearization, cg_damping=DAMPING)
    solution = conjugate_gradient(H, g, cg_max_steps, cg_tolerance=TOLERANCE)
    xHx = solution.quadratic_form(g)
    if not (0 < variance < math.inf and 0 < xHx < math.inf):
        return variance, False
    # x itself is the minimum of the quadratic model: inside the region there is no reason to go beyond it.
    step = min(1.0, math.sqrt(2 * max_kl * variance / xHx)) * solution.x

    def evaluate(fraction: float) -> Trial:
        assign(critic.parameters, w_old + fraction * step)
        new = critic.values(batch.observations)
        kl = float((new - old).square().mean()) / (2 * variance)
        return Trial(-float((new - returns).square().mean()), kl)

    moved = backtrack(evaluate, -variance, max_kl, SHRINK, MAX_TRIALS).accepted
    if not moved:
        assign(critic.parameters, w_old)
    return variance, moved


def _minibatches(batch: Batch, batch_size: int, n_epochs: int) -> Iterator[Tensor]:
    """Indices of the samples of each minibatch, in a new order every epoch."""
    for _ in range(n_epochs):
        order = torch.from_numpy(np.random.permutation(len(batch.returns))).to(batch.returns.device)
        yield from torch.split(order, int(batch_size))


def _fit(batch: Batch, losses: list[float], steps: int, finite: bool, started: float) -> CriticFit:
    explained = float(explained_variance(batch.values.cpu().numpy(), batch.returns.cpu().numpy()))
    finite = finite and all(math.isfinite(loss) for loss in losses)
    return CriticFit(fmean(losses), steps, explained, finite, time.perf_counter() - started)


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

    :param critic: any
    :param batch: N samples
    """

    def __init__(self, critic: Critic, batch: Batch):
        self._policy = critic.policy
        self._parameters = critic.parameters
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
        self._layers = [layer.detached() for layer in network.layers]
        self._gradients = [tuple(map(torch.empty_like, layer.parameters)) for layer in network.layers]
        for parameter, gradient in zip(network.parameters, chain(*self._gradients), strict=True):
            parameter.grad = gradient
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
        activations = Activations(self._layers, inputs)
        error = activations.outputs[-1] - self._targets.index_select(0, rows)
        loss = float(error.square().mean())
        for i, cotangent in activations.cotangents(error.mul_(2 / len(rows))):
            self._layers[i].write_gradient(activations.inputs[i], cotangent, *self._gradients[i])
        return loss


def _select(observations: Observations, rows: Tensor) -> Observations:
    return each(lambda tensor: tensor.index_select(0, rows), observations)
