"""Regression of the value function on the returns of a rollout."""

import math
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sb3_trpo_ext.common.network import Network, PlainNetwork
from sb3_trpo_ext.common.ranks import ALONE, Ranks, average_gradients
from sb3_trpo_ext.kernels.chain import Activations, is_dense_chain
from sb3_trpo_ext.kernels.conjugate_gradient import CGResult, conjugate_gradient
from sb3_trpo_ext.kernels.fisher import GaussNewton
from sb3_trpo_ext.kernels.gram import conjugate_gradient_among_samples, gram_matrix
from sb3_trpo_ext.kernels.line_search import Trial, backtrack
from sb3_trpo_ext.kernels.linearize import Linearization
from sb3_trpo_ext.kernels.vector import assign, flatten, put_back_on_error, unflatten
from sb3_trpo_ext.trust_region.batch import ROUNDING, Batch
from sb3_trpo_ext.trust_region.value_function import ValueFunction

# Of the Gauss-Newton steps. Damping as for the policy, in nats like there; the rest only bounds the work.
DAMPING = 0.1
TOLERANCE = 1e-3
SHRINK = 0.5
# H is made of so many states at least, and of more for wide layers. On stored rollouts more explained no more of the
# returns, at several times the cost; fewer steps of the conjugate gradient did not either, but HalfCheetah learned less
# with them.
CURVATURE_STATES = 512
MAX_TRIALS = 10
# A spread of the values above this many times that of the returns is cut first. Below it, Gauss-Newton steps do it
# better: they choose what to cut.
MAX_SPREAD = 2.0


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


def fit_by_gradient_descent(critic: ValueFunction, batch: Batch, batch_size: int, n_critic_updates: int) -> CriticFit:
    """
    Minibatch gradient descent on the mean squared error between values and returns, with the policy's optimizer.

    :param critic: to train
    :param batch: all N samples of a rollout
    :param batch_size: samples per gradient step, of all ranks
    :param n_critic_updates: passes over the samples, each in a new order drawn from numpy's global generator
    """
    started = time.perf_counter()
    if not critic.parameters:
        return _given(critic, batch, started)
    optimizer = critic.policy.optimizer
    w_old, memory_old = flatten(critic.parameters), deepcopy(optimizer.state_dict())
    error = squared_error(critic, batch)
    losses: list[float] = []
    steps = 0
    for rows in minibatches(batch, batch_size, n_critic_updates):
        losses.append(differentiate(error, rows, critic.parameters, batch.ranks))
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


def fit_in_trust_region(
    critic: ValueFunction, batch: Batch, critic_max_kl: float, n_critic_steps: int, cg_max_steps: int
) -> CriticFit:
    """
    Gauss-Newton steps within a trust region (Schulman et al. 2016, "High-dimensional continuous control using
    generalized advantage estimation", arXiv:1506.02438, section 5): each minimises the squared error subject to

        (1/N) Σ (V_w(s_n) − V_old(s_n))² / 2σ² ≤ ε,    σ² = (1/N) Σ (V_old(s_n) − R_n)²,

    a bound on the KL divergence between normal distributions of standard deviation σ around the old and new values.
    Where the paper takes one step per batch, this takes several, each from where the last one ended. Gradient and line
    search use all samples, the curvature H one in k, at least ``CURVATURE_STATES`` of them and more where layers are
    wide (:meth:`Batch.thinned_for`; Schulman et al. 2015, appendix C).

    The scale and the offset of the returns do not matter: with a critic whose output layer gives a V + c in place of V,
    the returns a R + c lead to a V + c again, a ≠ 0. The paper does not say how that is done. Here

    - the mean of the returns, and a spread that is far too large, are met first (:func:`meet_mean_and_spread`);
    - the curvature is that of the KL, H/σ², to which λ I is added;
    - weight and bias of the output layer are counted in units of σ: W = σ W̃, b = σ b̃, and the identity matrix is that
      of the other parameters together with W̃ and b̃. That is the normalisation of van Hasselt et al. 2016, "Learning
      values across many orders of magnitude", arXiv:1602.07714, as a change of coordinates: nothing has to be
      remembered, and the values that the network gives are always in the units of the returns.

    A critic without such a layer is damped in the units of its parameters as they are.

    :param critic: to train
    :param batch: all N samples of a rollout
    :param critic_max_kl: ε > 0, in nats
    :param n_critic_steps: at most this many steps
    :param cg_max_steps: limit of each step's conjugate gradient
    """
    started = time.perf_counter()
    if not critic.parameters:
        return _given(critic, batch, started)
    losses: list[float] = []
    steps = 0
    thinned = batch.thinned_for(critic.parameters, CURVATURE_STATES)
    with put_back_on_error(critic.parameters, flatten(critic.parameters)):
        meet_mean_and_spread(critic, batch)
    start = critic.linearize(batch.inputs)
    for _ in range(n_critic_steps):
        loss, end = _gauss_newton_step(critic, batch, thinned, start, critic_max_kl, cg_max_steps)
        losses.append(loss)
        if end is None:
            break
        steps, start = steps + 1, end
    return _fit(batch, losses, steps, True, started)


@torch.no_grad()
def meet_mean_and_spread(critic: ValueFunction, batch: Batch) -> None:
    """
    Change V to α V + β by the output layer, such that its mean is that of the returns, and its standard deviation at
    most ``MAX_SPREAD`` times theirs. The squared error never rises by it.

    A bias is the least-squares solution for an offset, which a trust region would only delay. The values that predict
    best, E[R|s], never spread more than R does. When they do by far, after a change of the rewards' scale or with the
    first weights, many steps would have to take back what is known to be wrong, and would spoil the inner layers.

    :param critic: left as it is where no bias of an output layer is trained
    :param batch: all N samples of a rollout
    """
    weight, bias = critic.output_weight, critic.output_bias
    if bias is None:
        return
    values, returns = critic.values(batch.inputs).flatten(), batch.returns
    spread, limit = (_root_mean_square(batch, part - batch.mean(part)) for part in (values, returns))
    limit *= MAX_SPREAD
    alpha = limit / spread if weight is not None and limit < spread < math.inf else 1.0
    beta = float(batch.mean(returns - alpha * values))
    if math.isfinite(beta):
        bias.mul_(alpha).add_(beta)
        if weight is not None:
            weight.mul_(alpha)


@dataclass(frozen=True)
class Candidate(Trial):
    """
    A trial that remembers its critic, so that the next step need not ask it again.

    :param linearization: of w → V at the samples of this process
    """

    linearization: Linearization


def _gauss_newton_step(
    critic: ValueFunction,
    batch: Batch,
    thinned: Batch,
    start: Linearization,
    critic_max_kl: float,
    cg_max_steps: int,
) -> tuple[float, Linearization | None]:
    """
    One step of :func:`fit_in_trust_region`.

    :param thinned: the samples that H is made of
    :param start: of w → V at the samples of this process
    :return: the error before the step, and the linearization where it ended; None where no step was taken
    """
    w_old, returns = flatten(critic.parameters), batch.returns.unsqueeze(1)
    old = start.value[0]
    sigma = _root_mean_square(batch, returns - old)
    # Errors that small beside the returns are rounding noise of float32, which no step can lower.
    noise = max(ROUNDING * float(batch.largest(returns.abs())), torch.finfo(returns.dtype).tiny)
    if not noise < sigma < math.inf:
        return sigma**2, None
    of_each = critic.units(sigma)
    units = flatten([torch.full_like(w, unit) for w, unit in zip(critic.parameters, of_each, strict=True)])
    errors = (returns - old) / sigma
    # −∇ of half the error, in units of σ²
    g = InUnits(batch.linearization(start), units).vjp((errors / batch.size,))
    local = start if thinned is batch else critic.linearize(thinned.inputs)
    among_samples = thinned.ranks is ALONE and w_old.is_cpu and _are_few(thinned.size, len(w_old))
    K = gram_matrix(local, of_each) if among_samples and is_dense_chain(local) else None
    solution = _solve(InUnits(thinned.linearization(local), units), K, thinned.size, g, cg_max_steps)
    xHx = solution.quadratic_form(g)
    if not 0 < xHx < math.inf:
        return sigma**2, None
    # x itself is the minimum of the quadratic model: inside the region there is no reason to go beyond it.
    step = min(1.0, math.sqrt(2 * critic_max_kl / xHx)) * solution.x * (units * sigma)

    def evaluate(fraction: float) -> Candidate:
        assign(critic.parameters, w_old + fraction * step)
        linearization = critic.linearize(batch.inputs)
        new = linearization.value[0]
        kl = float(batch.mean(((new - old) / sigma).square())) / 2
        return Candidate(-float(batch.mean(((returns - new) / sigma).square())), kl, linearization)

    with put_back_on_error(critic.parameters, w_old):
        result = backtrack(evaluate, -float(batch.mean(errors.square())), critic_max_kl, SHRINK, MAX_TRIALS)
        if not result.accepted:
            assign(critic.parameters, w_old)
    return sigma**2, result.trial.linearization if result.accepted and result.trial is not None else None


def _are_few(n: int, p: int) -> bool:
    """
    Whether directions are found sooner among n samples than among p parameters: a step of the conjugate gradient
    costs n² numbers there and n p here, of which the former leave the processor's cache first. Measured on a CPU with
    5 000 to 270 000 parameters. On a GPU the way among the samples has nothing to gain, and loses with wide layers.
    """
    return n <= 512 + p / 128


def _solve(linearization: "InUnits", K: Tensor | None, n: int, g: Tensor, cg_max_steps: int) -> CGResult:
    """
    (H + λI)⁻¹ g by conjugate gradients: among the samples where their Gram matrix is known, the cheaper way.

    :param linearization: of w → V at the states that H is made of
    :param K: J Jᵀ of the same, shape (n, n); None where it is not known
    :param n: how many they are, of all processes
    :param g: shape (p,)
    """
    if K is not None:
        return conjugate_gradient_among_samples(K, linearization, g, DAMPING, cg_max_steps, TOLERANCE)
    return conjugate_gradient(GaussNewton(linearization, DAMPING, n), g, cg_max_steps, TOLERANCE)


class InUnits:
    """
    A linearization with another measure of each parameter: J diag(u) in place of J.

    :param linearization: of the map w → V
    :param units: u, shape (p,)
    """

    def __init__(self, linearization: Linearization, units: Tensor):
        self._linearization, self._units = linearization, units
        self.value = linearization.value

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        return self._linearization.jvp(self._units * tangent)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        return self._linearization.vjp(cotangent).mul_(self._units)


def _root_mean_square(batch: Batch, per_sample: Tensor) -> float:
    """Over the samples, of numbers whose squares may not exist in their type. Shape of ``per_sample``: (N, …)."""
    largest = batch.largest(per_sample.abs()).clamp(min=torch.finfo(per_sample.dtype).tiny)
    return float(largest) * math.sqrt(float(batch.mean((per_sample / largest).square())))


def _given(critic: ValueFunction, batch: Batch, started: float) -> CriticFit:
    """Of a critic that is frozen as a whole: there is an error, and nothing to fit."""
    errors = critic.values(batch.inputs) - batch.returns.unsqueeze(1)
    return _fit(batch, [float(batch.mean(errors.square()))], 0, True, started)


def explained_variance(batch: Batch) -> float:
    """1 − Var(R − V) / Var(R), with the values that the batch holds; NaN where all returns are equal."""

    def variance(per_sample: Tensor) -> float:
        return float(batch.mean((per_sample - batch.mean(per_sample)).square()))

    # In float64, where every square of a float32 exists.
    values, returns = (part.cpu().double() for part in (batch.values, batch.returns))
    spread = variance(returns)
    return 1 - variance(returns - values) / spread if spread else math.nan


def _fit(batch: Batch, losses: list[float], steps: int, finite: bool, started: float) -> CriticFit:
    explained = explained_variance(batch)
    finite = finite and all(math.isfinite(loss) for loss in losses)
    return CriticFit(fmean(losses), steps, explained, finite, time.perf_counter() - started)


def minibatches(batch: Batch, batch_size: int, passes: int) -> Iterator[Tensor]:
    """
    Rows of this rank's samples, as many times on every rank, so that all have their share of each gradient step.

    :param batch: the samples of all ranks
    :param batch_size: samples of all ranks in a minibatch, more or less
    :param passes: over the samples
    :return: rows at a time; none where the other ranks have more minibatches than this one
    """
    ranks, own = batch.ranks, len(batch.returns)
    if ranks is ALONE:
        yield from (rows for _ in range(passes) for rows in batch.inputs.minibatches(batch_size))
        return
    share = max(1, math.ceil(batch_size * own / batch.size))
    for _ in range(passes):
        rows_of_each = list(batch.inputs.minibatches(share))
        most = max(ranks.gather(len(rows_of_each)))
        yield from rows_of_each
        yield from [torch.zeros(0, dtype=torch.int64, device=batch.returns.device)] * (most - len(rows_of_each))


def differentiate(error: "SquaredError", rows: Tensor, parameters: Sequence[Tensor], ranks: Ranks) -> float:
    """
    Write the gradient of the error on a minibatch into the parameters' ``grad``, of all ranks' parts of it.

    :param error: on the samples of this rank
    :param rows: of its part, shape (n,)
    :param parameters: of the critic
    :param ranks: all of them
    :return: the error
    """
    if ranks is ALONE:
        return error.differentiate(rows)
    if len(rows):
        return average_gradients(parameters, error.differentiate(rows), len(rows), ranks)
    for parameter in parameters:  # what is left of an earlier minibatch may not be finite
        if parameter.grad is not None:
            parameter.grad.zero_()
    return average_gradients(parameters, 0.0, 0, ranks)


class SquaredError(Protocol):
    """The mean squared error between values and returns, as a function of the critic's parameters."""

    def differentiate(self, rows: Tensor) -> float:
        """
        Write the gradient of the error on some samples into the parameters' ``grad``.

        :param rows: indices of B samples
        :return: the error
        """
        ...


def squared_error(critic: ValueFunction, batch: Batch) -> SquaredError:
    """Of the values on the samples of a batch, in the fastest way that there is for this critic."""
    network = critic.network
    if isinstance(network, PlainNetwork):
        return ChainSquaredError(network, batch)
    return AutogradSquaredError(critic, batch) if network is None else NetworkSquaredError(network, batch)


class AutogradSquaredError:
    """
    The mean squared error of any critic.

    :param critic: any
    :param batch: N samples
    """

    def __init__(self, critic: ValueFunction, batch: Batch):
        self._critic = critic
        self._parameters = critic.parameters
        self._batch = batch

    def differentiate(self, rows: Tensor) -> float:
        """As :meth:`SquaredError.differentiate`."""
        values = self._critic.heads.values(self._batch.inputs.rows(rows)).flatten()
        loss = mse_loss(values, self._batch.returns[rows])
        self._critic.policy.optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=self._parameters)
        return loss.item()


class NetworkSquaredError:
    """
    The mean squared error of a critic that is differentiated by hand.

    :param network: of the critic
    :param batch: N samples
    """

    def __init__(self, network: Network, batch: Batch):
        self._network, self._batch = network, batch

    def differentiate(self, rows: Tensor) -> float:
        """As :meth:`SquaredError.differentiate`."""
        local = self._network.linearize(self._batch.inputs.rows(rows))
        error = local.value[0] - self._batch.returns[rows].unsqueeze(1)
        gradient, parameters = local.vjp((error * (2 / len(rows)),)), self._network.parameters
        for parameter, part in zip(parameters, unflatten(gradient, parameters), strict=True):
            parameter.grad = part
        return float(error.square().mean())


class ChainSquaredError:
    """
    The mean squared error of a critic that is a chain of layers; the same numbers with a quarter of the overhead.

    :param network: of the critic
    :param batch: N samples
    """

    def __init__(self, network: PlainNetwork, batch: Batch):
        self._network, self._batch = network, batch
        self._layers = [layer.detached() for layer in network.layers]
        self._gradients = [tuple(map(torch.empty_like, layer.parameters)) for layer in network.layers]
        for parameter, gradient in zip(network.parameters, chain(*self._gradients), strict=True):
            parameter.grad = gradient
        # Pixels become floats only a minibatch at a time: four times less memory.
        self._features = None if network.from_pixels else network.inputs(batch.inputs)
        self._targets = batch.returns.unsqueeze(1)

    @torch.no_grad()
    def differentiate(self, rows: Tensor) -> float:
        """As :meth:`SquaredError.differentiate`."""
        if self._features is None:
            features = self._network.inputs(self._batch.inputs.rows(rows))
        else:
            features = self._features.index_select(0, rows)
        activations = Activations(self._layers, features)
        error = activations.outputs[-1] - self._targets.index_select(0, rows)
        loss = float(error.square().mean())
        for i, cotangent in activations.cotangents(error.mul_(2 / len(rows))):
            self._layers[i].write_gradient(activations.inputs[i], cotangent, *self._gradients[i])
        return loss
