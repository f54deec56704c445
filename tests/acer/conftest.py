"""Small models."""

from collections.abc import Callable
from typing import Any

import pytest

from sb3_trpo_ext import ACER
from tests.cases import SMALL


@pytest.fixture
def tiny() -> Callable[..., ACER]:
    """A model that is fast to train and replays early: ``tiny(env, policy="MlpPolicy", **arguments of ACER)``."""

    def make(env: Any, policy: Any = "MlpPolicy", **settings: Any) -> ACER:
        defaults = {"n_steps": 6, "buffer_size": 60, "replay_start": 6, "replay_ratio": 2, "seed": 0, "device": "cpu"}
        small = SMALL[policy] if isinstance(policy, str) else {}
        policy_kwargs = small | settings.pop("policy_kwargs", {})
        return ACER(policy, env, policy_kwargs=policy_kwargs, **(defaults | settings))

    return make
