"""
What the tests share: distribution families beside torch.distributions, small policies, batches, dense matrices.

The references here know nothing of the package under test: they are built on torch.distributions and torch.autograd.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, kl_divergence

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels import families
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.heads import Heads

SIZES = (2, 3, 4)  # of the choices of a MultiDiscrete action
DIM = 3  # of the other actions that have several dimensions
OBSERVATION = 3  # numbers per observation

# --------------------------------------------------------------------------------------------- devices
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
# The same test on both, so that it is known to be right where there is no GPU.
each_device = pytest.mark.parametrize("device", ["cpu", CUDA])

# --------------------------------------------------------------------------------------------- families
# A reference is a list of torch distributions whose log-likelihoods, entropies and divergences add up.
Reference = list[Distribution]


@dataclass(frozen=True)
class Kind:
    """
    :param draw: n → random statistics φ of n distributions, float64
    :param family: φ → the family under test
    :param reference: φ → the same from torch.distributions
    """

    draw: Callable[[int], tuple[Tensor, ...]]
    family: Callable[..., families.Family]
    reference: Callable[..., Reference]


def _logits(width: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (2 * torch.randn(n, width, dtype=torch.float64),)


KINDS = {
    "gaussian": Kind(
        lambda n: (torch.randn(n, DIM, dtype=torch.float64), 0.3 + torch.rand(n, DIM, dtype=torch.float64)),
        families.Gaussian,
        lambda mean, std: [Independent(Normal(mean, std), 1)],
    ),
    "categorical": Kind(_logits(4), families.Categorical, lambda logits: [Categorical(logits=logits)]),
    "multi_categorical": Kind(
        _logits(sum(SIZES)),
        lambda logits: families.MultiCategorical(logits, SIZES),
        lambda logits: [Categorical(logits=block) for block in logits.split(SIZES, dim=1)],
    ),
    "bernoulli": Kind(_logits(DIM), families.Bernoulli, lambda logits: [Independent(Bernoulli(logits=logits), 1)]),
}


def reference_kl(old: Reference, new: Reference) -> Tensor:
    """KL(old ‖ new) of each row."""
    return sum(kl_divergence(p, q) for p, q in zip(old, new, strict=True))


def reference_entropy(reference: Reference) -> Tensor:
    return sum(part.entropy() for part in reference)


def reference_log_prob(reference: Reference, actions: Tensor) -> Tensor:
    if len(reference) == 1:
        return reference[0].log_prob(actions)
    return sum(part.log_prob(actions[:, i]) for i, part in enumerate(reference))


def reference_sample(reference: Reference) -> Tensor:
    return reference[0].sample() if len(reference) == 1 else torch.stack([part.sample() for part in reference], dim=1)


def outcomes(reference: Reference) -> tuple[Tensor, Tensor]:
    """
    Actions and weights that give the expectation of any quartic in a Gaussian action, of any function of a discrete
    one, exactly. The reference has one row.
    """
    first = reference[0]
    if isinstance(first, Categorical):
        choices = [range(part.logits.shape[1]) for part in reference]
        actions = torch.tensor(list(product(*choices)))
        actions = actions[:, 0] if len(reference) == 1 else actions
    elif isinstance(first.base_dist, Bernoulli):
        actions = torch.tensor(list(product((0.0, 1.0), repeat=first.event_shape[0])), dtype=torch.float64)
    else:
        nodes, weights = (torch.tensor(array) for array in np.polynomial.hermite_e.hermegauss(5))
        grid = torch.tensor(list(product(range(5), repeat=first.event_shape[0])))
        return first.base_dist.loc + first.base_dist.scale * nodes[grid], (weights / weights.sum())[grid].prod(dim=1)
    return actions, torch.stack([reference_log_prob(reference, action[None])[0] for action in actions]).exp()


# --------------------------------------------------------------------------------------------- policies
ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (DIM,)),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete(list(SIZES)),
    "multi_binary": spaces.MultiBinary(DIM),
}
# Of networks that are fast to train, by the names of the policies.
SMALL: dict[str, dict[str, Any]] = {
    "MlpPolicy": {"net_arch": [8]},
    "CnnPolicy": {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}},
    "MultiInputPolicy": {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}},
}
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ACTIONS},
    "gsde": ("box", {"use_sde": True, "log_std_init": -1.0}),
    "gsde_expln": ("box", {"use_sde": True, "log_std_init": -1.0, "use_expln": True}),
    "gsde_one_std": ("box", {"use_sde": True, "log_std_init": -1.0, "full_std": False}),
    "gsde_squashed": ("box", {"use_sde": True, "log_std_init": -1.0, "squash_output": True}),
}


def make_policy(name: str, precise: bool = False, seed: int = 0, width: int = 4, **kwargs: Any) -> ActorCriticPolicy:
    """
    A small SB3 policy whose distributions differ visibly from state to state.

    :param name: key of ``POLICIES``
    :param precise: in float64
    """
    torch.manual_seed(seed)
    action, own = POLICIES[name]
    kwargs = {"net_arch": [width], **own, **kwargs}
    policy = ActorCriticPolicy(spaces.Box(-np.inf, np.inf, (OBSERVATION,)), ACTIONS[action], lambda _: 1e-3, **kwargs)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    if precise:
        policy.double()
        # SB3 hands observations over as float32.
        policy.features_extractor.register_forward_hook(lambda module, inputs, features: features.double())
    return policy


def make_actor(policy: ActorCriticPolicy, fast: bool = True) -> Actor:
    return Actor(Heads(policy), fast)


def by_hand(policy_name: str) -> bool:
    """Whether the actor of such a policy is a chain of layers, for which autograd is not needed."""
    return not policy_name.startswith("gsde")


def torch_reference(policy: ActorCriticPolicy, observations: Any) -> Reference:
    """The policy's distributions as torch has them, before any squashing. Later calls do not overwrite them."""
    inner = policy.get_distribution(observations).distribution
    if isinstance(inner, list):
        return inner
    return [Independent(inner, 1)] if isinstance(inner, (Normal, Bernoulli)) else [inner]


class StatisticsOf(nn.Module):
    """A policy as a module from observations to φ, read off the torch distributions."""

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy = policy

    def forward(self, observations: Any) -> tuple[Tensor, ...]:
        reference = torch_reference(self.policy, observations)
        if isinstance(reference[0], Categorical):
            return (torch.cat([part.logits for part in reference], dim=1),)
        base = reference[0].base_dist
        return (base.loc, base.scale) if isinstance(base, Normal) else (base.logits,)


KIND_OF_ACTION = {
    "box": "gaussian",
    "discrete": "categorical",
    "multi_discrete": "multi_categorical",
    "multi_binary": "bernoulli",
}


def kind_of(policy_name: str) -> Kind:
    return KINDS[KIND_OF_ACTION[POLICIES[policy_name][0]]]


def make_batch(policy: ActorCriticPolicy, n: int, seed: int = 1) -> Batch:
    """Random observations, actions that the policy took there (as a rollout buffer stores them), random advantages."""
    torch.manual_seed(seed)
    observations = torch.randn(n, OBSERVATION)
    if policy.use_sde:
        policy.reset_noise(n)
    with torch.no_grad():
        actions, values, _ = policy(observations)
    dtype = values.dtype
    advantages = torch.randn(n, dtype=dtype)
    values = values.flatten()
    return Batch(Inputs(observations), actions.reshape(n, -1).to(dtype), advantages, values + advantages, values)


def snapshot(module: nn.Module | Sequence[Tensor]) -> list[Tensor]:
    """Copies of all parameters and buffers."""
    tensors = module.state_dict().values() if isinstance(module, nn.Module) else module
    return [tensor.detach().clone() for tensor in tensors]


def all_finite(model: OnPolicyAlgorithm) -> bool:
    """Whether a policy's parameters are, and all that its optimizer remembers."""
    memory = [item for entry in model.policy.optimizer.state.values() for item in entry.values()]
    tensors = [*model.policy.parameters(), *(item for item in memory if isinstance(item, Tensor))]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def identical(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors agree bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --------------------------------------------------------------------------------------------- dense matrices
def dense(operator: Any, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The matrix of an operator, column by column."""
    return torch.stack([operator @ column for column in torch.eye(size, dtype=dtype)], dim=1)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def gradient(scalar: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Tensor:
    grads = torch.autograd.grad(
        scalar, parameters, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return flat(grads)


def hessian(scalar: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """By double back-propagation, row by row."""
    return torch.stack([gradient(entry, parameters) for entry in gradient(scalar, parameters, create_graph=True)])


def metric_of_row(kind: Kind, statistics: Sequence[Tensor], row: int) -> Tensor:
    """The Hessian of one state's KL(old ‖ ·) in φ, from torch.distributions."""
    old = [tensor[row : row + 1].detach() for tensor in statistics]
    new = [tensor.clone().requires_grad_() for tensor in old]
    return hessian(reference_kl(kind.reference(*old), kind.reference(*new)).sum(), new)


def dense_fisher(kind: Kind, statistics: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """(1/n) Σ_i J_iᵀ M_i J_i, with one back-propagation for each entry of φ."""
    n, p = statistics[0].shape[0], sum(parameter.numel() for parameter in parameters)
    total = torch.zeros(p, p, dtype=statistics[0].dtype)
    for i in range(n):
        J = torch.stack([gradient(entry, parameters) for entry in flat([tensor[i] for tensor in statistics])])
        total += J.T @ metric_of_row(kind, statistics, i) @ J
    return total / n
