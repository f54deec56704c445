"""
On a GPU the same numbers as on the CPU, from the same policy and the same batch.

In float64, but for images, which SB3 has in float32.
"""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels.families import Family
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.kernels.kfac import KroneckerPreconditioner
from sb3_trpo_ext.kernels.vector import count, flatten
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.critic_fit import fit_by_gradient_descent, fit_in_trust_region
from sb3_trpo_ext.trust_region.direction import Backtracking, KfacNaturalGradient, NaturalGradient
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import EuclideanRegion, KLRegion, averaged, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import ACTIONS, POLICIES, by_hand, each_device, make_actor, make_batch, make_policy

N, N_IMAGES = 200, 40
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
# The sums of a GPU have another order. A conjugate gradient amplifies what rounding makes of that, with each step more:
# after 15 steps a change of 1e-15 is one of 1e-4. So it takes few here.
STEPS = 6
EXACT = {"rtol": 1e-9, "atol": 1e-11}
AFTER_AN_ITERATION = {"rtol": 1e-6, "atol": 1e-8}
# In float32 a unit may be on one side of its kink here and on the other there, and one is enough to be seen.
SINGLE = {"rtol": 2e-2, "atol": 1e-3}
SHARE = 0.2  # of a change by which two may differ

each_policy = pytest.mark.parametrize("name", POLICIES)
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


class Side:
    """A policy on a device, with a batch there; alike on every device."""

    def __init__(self, device, name="box", fast=True):
        make = image_policy if name == "image" else lambda: make_policy(name, precise=True)
        self.policy = make().to(device)
        if self.policy.use_sde:
            self.policy.reset_noise()  # SB3 leaves the old noise where it was
        self.batch = moved(image_batch(make()) if name == "image" else make_batch(make(), N), device)
        self.actor = make_actor(self.policy, fast)
        assert (self.actor.network is not None) == (fast and by_hand(name))
        self.critic = ValueFunction(self.actor, 1e-3, fast)
        generator = torch.Generator().manual_seed(5)
        self.vector = torch.randn(count(self.actor.parameters), generator=generator).to(self.batch.returns)

    def fisher(self, k=1):
        family, linearization = self.actor.linearize(self.batch.one_in(k).inputs)
        return Fisher(linearization, family, cg_damping=0.1)

    def theta(self):
        return on_cpu(flatten(list(self.policy.parameters())))


def image_policy():
    torch.manual_seed(0)
    return ActorCriticCnnPolicy(IMAGE, ACTIONS["box"], lambda _: 1e-3, net_arch=[8], share_features_extractor=False)


def image_batch(policy):
    torch.manual_seed(1)
    observations = torch.randint(256, (N_IMAGES, *IMAGE.shape), dtype=torch.uint8)
    with torch.no_grad():
        actions, values, _ = policy(observations)
    advantages = torch.randn(N_IMAGES)
    return Batch(Inputs(observations), actions, advantages, values.flatten() + advantages, values.flatten())


def moved(batch, device):
    parts = (batch.actions, batch.advantages, batch.returns, batch.values)
    return Batch(Inputs(batch.inputs.observations.to(device)), *(part.to(device) for part in parts))


def on_cpu(tensor):
    return tensor.detach().cpu()


def image_theta():
    return flatten(list(image_policy().parameters()))


def both(device, *arguments):
    return Side("cpu", *arguments), Side(device, *arguments)


def agree(one, other, **tolerance):
    """What two results say of themselves, but for the time they took."""
    logged = [{key: value for key, value in each.logged().items() if "seconds" not in key} for each in (one, other)]
    for key, value in logged[0].items():
        assert logged[1][key] == pytest.approx(value, rel=tolerance["rtol"], abs=tolerance["atol"]), key


def nearly_the_same_change(sides):
    expected, found = (side.theta() - image_theta() for side in sides)
    assert float((found - expected).norm()) < SHARE * float(expected.norm())


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """By default a GPU's convolutions round to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def same_draws(monkeypatch):
    """A GPU draws other random numbers from the same seed: scores are drawn on the CPU."""

    def drawn_on_cpu(kind, sample_score):
        def draw(self):
            device = self.statistics[0].device
            torch.manual_seed(3)
            return tuple(
                part.to(device)
                for part in sample_score(self.with_statistics([on_cpu(part) for part in self.statistics]))
            )

        monkeypatch.setattr(kind, "sample_score", draw)

    for kind in Family.__subclasses__():
        drawn_on_cpu(kind, kind.sample_score)


@each_device
@each_policy
@each_way
@pytest.mark.parametrize("k", [1, 3])
def test_fisher_product(device, name, fast, k):
    expected, found = (side.fisher(k) @ side.vector for side in both(device, name, fast))
    assert found.device.type == device and float(expected.norm()) > 0.1
    torch.testing.assert_close(on_cpu(found), expected, **EXACT)


@each_device
@each_way
def test_fisher_product_of_an_image_policy(device, fast):
    expected, found = (side.fisher() @ side.vector for side in both(device, "image", fast))
    assert float((on_cpu(found) - expected).norm()) < SINGLE["rtol"] * float(expected.norm())


@each_device
@pytest.mark.parametrize("name", [name for name in POLICIES if by_hand(name)])
def test_kfac_preconditioner(device, name, same_draws):
    expected, found = (KroneckerPreconditioner(side.fisher()) @ side.vector for side in both(device, name))
    assert found.device.type == device
    torch.testing.assert_close(on_cpu(found), expected, **EXACT)


REGIONS = {
    "kl": KLRegion(0.01, summed, 0.1, 1),
    "thinned": KLRegion(0.01, summed, 0.1, 3),
    "averaged": KLRegion(0.01, averaged, 0.1, 1),
    "euclidean": EuclideanRegion(0.01, summed),
}
UPDATES = [
    *(pytest.param(name, fast, "kl", id=f"{name}-{fast}") for name in POLICIES for fast in (True, False)),
    *(pytest.param("box", True, region) for region in REGIONS if region != "kl"),
]


@each_device
@pytest.mark.parametrize("name, fast, region", UPDATES)
def test_trust_region_step(device, name, fast, region):
    sides, search = both(device, name, fast), Backtracking(0.8, 10)
    before = sides[0].theta()
    expected, found = (
        trust_region_step(
            side.actor, side.batch.normalized(), REGIONS[region], NaturalGradient(STEPS, 0.0), search, ent_coef=0.01
        )
        for side in sides
    )
    assert found.status is StepStatus.ACCEPTED and not torch.equal(sides[0].theta(), before)
    agree(expected, found, **AFTER_AN_ITERATION)
    torch.testing.assert_close(sides[1].theta(), sides[0].theta(), **AFTER_AN_ITERATION)


@each_device
def test_trust_region_step_with_kfac(device, same_draws):
    sides, direction = both(device), KfacNaturalGradient(STEPS, 0.0)
    expected, found = (
        trust_region_step(side.actor, side.batch, REGIONS["kl"], direction, Backtracking(0.8, 10)) for side in sides
    )
    agree(expected, found, **AFTER_AN_ITERATION)
    torch.testing.assert_close(sides[1].theta(), sides[0].theta(), **AFTER_AN_ITERATION)


@each_device
def test_trust_region_step_of_an_image_policy(device):
    sides = both(device, "image")
    expected, found = (
        trust_region_step(side.actor, side.batch, REGIONS["kl"], NaturalGradient(STEPS, 0.0), Backtracking(0.8, 10))
        for side in sides
    )
    assert (found.status, found.cg_steps) == (StepStatus.ACCEPTED, STEPS)
    assert found.kl_mean == pytest.approx(expected.kl_mean, rel=SHARE)
    nearly_the_same_change(sides)


FITS = {
    "trust region": lambda side: fit_in_trust_region(side.critic, side.batch, 0.1, 3, STEPS),
    "adam": lambda side: fit_by_gradient_descent(side.critic, side.batch, 32, 2),
}


def fitted(sides, fit):
    results = []
    for side in sides:
        np.random.seed(7)  # the order of the samples
        results.append(FITS[fit](side))
    assert results[0].steps > 2 and results[0].finite
    return results


@each_device
@each_way
@pytest.mark.parametrize("fit", FITS)
def test_critic(device, fit, fast):
    sides, before = both(device, "box", fast), Side("cpu").theta()
    agree(*fitted(sides, fit), **AFTER_AN_ITERATION)
    assert not torch.equal(sides[0].theta(), before)
    torch.testing.assert_close(sides[1].theta(), sides[0].theta(), **AFTER_AN_ITERATION)


@each_device
@each_way
@pytest.mark.parametrize("fit", FITS)
def test_critic_of_an_image_policy(device, fit, fast):
    sides = both(device, "image", fast)
    agree(*fitted(sides, fit), **SINGLE)
    nearly_the_same_change(sides)
