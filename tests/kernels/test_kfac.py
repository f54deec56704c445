"""The Kronecker-factored preconditioner, against the dense inverse where it is exact, and for what it is there for."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels.chain import ChainLinearization, GaussianLinearization
from sb3_trpo_ext.kernels.conjugate_gradient import conjugate_gradient
from sb3_trpo_ext.kernels.families import Categorical, Gaussian
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.kernels.kfac import KroneckerPreconditioner
from sb3_trpo_ext.kernels.layers import layers_of
from tests.cases import KINDS, OBSERVATION, dense, make_actor, make_policy

N = 4000


def linearized(name, n=N, **kwargs):
    policy = make_policy(name, precise=True, **kwargs)
    return make_actor(policy).linearize(Inputs(torch.randn(n, OBSERVATION)))


@pytest.mark.parametrize("name", KINDS)
def test_covariance_of_the_score_is_the_metric(name):
    torch.manual_seed(0)
    kind = KINDS[name]
    family = kind.family(*(row.expand(200_000, -1) for row in kind.draw(1)))
    scores = torch.cat(family.sample_score(), dim=1)
    widths = [tensor.shape[1] for tensor in family.statistics]
    one = kind.family(*(tensor[:1] for tensor in family.statistics))
    metric = torch.stack(
        [torch.cat(one.metric([c[None] for c in torch.split(column, widths)]), dim=1)[0]
         for column in torch.eye(sum(widths), dtype=scores.dtype)]
    )  # fmt: skip
    covariance = scores.T @ scores / len(scores)
    torch.testing.assert_close(covariance, metric, rtol=0.05, atol=0.02 * float(metric.abs().max()))
    torch.testing.assert_close(scores.mean(dim=0), torch.zeros_like(scores[0]), rtol=0, atol=0.05)


@pytest.mark.parametrize("scale", [1.0, 1 / 3])
def test_linear_gaussian_policy_is_inverted_up_to_sampling(scale):
    """One layer with the same G in every state: F is a Kronecker product, so that only the split damping is inexact."""
    torch.manual_seed(0)
    family, linearization = linearized("box", net_arch=[])
    fisher = Fisher(linearization, family, cg_damping=1e-4, scale=scale)
    size = 3 + 3 * (OBSERVATION + 1)
    F, P = dense(fisher, size), dense(KroneckerPreconditioner(fisher), size)
    torch.testing.assert_close(P @ F, torch.eye(size, dtype=F.dtype), rtol=0, atol=0.1)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_block_of_the_width_is_exact(scale):
    family, linearization = linearized("box")
    P = KroneckerPreconditioner(Fisher(linearization, family, 0.5, scale))
    vector = torch.zeros(_size(linearization), dtype=torch.float64)
    vector[:3] = torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(P @ vector, vector / (2 * scale + 0.5))


@pytest.mark.parametrize("name", ["box", "discrete", "multi_discrete", "multi_binary"])
def test_is_symmetric_and_positive(name):
    family, linearization = linearized(name)
    P = dense(KroneckerPreconditioner(Fisher(linearization, family, 0.1)), _size(linearization))
    torch.testing.assert_close(P, P.T)
    assert float(torch.linalg.eigvalsh(P).min()) > 0


def test_large_damping_makes_it_plain():
    family, linearization = linearized("discrete")
    size = _size(linearization)
    P = dense(KroneckerPreconditioner(Fisher(linearization, family, 1e8)), size)
    torch.testing.assert_close(P * 1e8, torch.eye(size, dtype=P.dtype), rtol=0, atol=1e-2)


def test_fewer_steps_to_the_same_residual():
    """On a Gaussian policy with inputs of very different sizes, which is what the plain iteration suffers from."""
    torch.manual_seed(0)
    space = spaces.Box(-np.inf, np.inf, (17,))
    policy = ActorCriticPolicy(space, spaces.Box(-1, 1, (6,)), lambda _: 1e-3)
    family, linearization = make_actor(policy).linearize(Inputs(torch.randn(1000, 17) * torch.logspace(-1, 1, 17)))
    b = torch.randn(_size(linearization))
    F = Fisher(linearization, family, 0.01)
    P = KroneckerPreconditioner(F)
    plain, preconditioned = (conjugate_gradient(F, b, 500, 1e-2, preconditioner) for preconditioner in (None, P))
    assert preconditioned.relative_residual(b) <= 1e-2
    assert float((F @ preconditioned.x - b).norm() / b.norm()) < 1.1e-2
    assert preconditioned.steps < plain.steps / 2


def test_a_network_that_is_no_chain_is_refused():
    policy = make_policy("box")
    family, linearization = make_actor(policy, fast=False).linearize(Inputs(torch.randn(3, OBSERVATION)))
    with pytest.raises(ValueError, match=r"got an object of class AutogradLinearization\. Set cg_preconditioner=None"):
        KroneckerPreconditioner(Fisher(linearization, family, 0.1))


@pytest.mark.parametrize("own_std", [True, False])
def test_a_chain_with_convolutions_is_refused(own_std):
    chain = ChainLinearization(layers_of([nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3)]), torch.randn(4, 1, 3, 3))
    mean = chain.value[0]
    family = Gaussian(mean, torch.ones_like(mean)) if own_std else Categorical(mean)
    linearization = GaussianLinearization(chain, torch.zeros(3)) if own_std else chain
    with pytest.raises(ValueError, match=r"got a chain of the layers Convolution, Dense\. Set cg_preconditioner=None"):
        KroneckerPreconditioner(Fisher(linearization, family, 0.1))


def _size(linearization):
    return len(linearization.vjp([torch.zeros_like(tensor) for tensor in linearization.value]))
