"""A model of each kind."""

from functools import partial

import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.trpo.cases import KINDS


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def build(space_env, tiny):
    """A model of a kind, and with it a way to make its environment."""

    def make(kind, **settings):
        policy, observation_space, action_space = kind
        return tiny(DummyVecEnv([partial(space_env, observation_space, action_space)] * 2), policy, **settings)

    return make
