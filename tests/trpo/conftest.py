"""What the tests of the algorithm share: small models."""

from collections.abc import Callable
from typing import Any

import pytest

from sb3_trpo_ext import TRPO

SMALL: dict[str, dict[str, Any]] = {
    "MlpPolicy": {"net_arch": [8]},
    "CnnPolicy": {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}},
    "MultiInputPolicy": {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}},
}


@pytest.fixture
def tiny() -> Callable[..., TRPO]:
    """A model that is fast to train: ``tiny(env, policy="MlpPolicy", **arguments of TRPO)``."""

    def make(env: Any, policy: Any = "MlpPolicy", **settings: Any) -> TRPO:
        defaults = {"n_steps": 16, "seed": 0, "device": "cpu"}
        small = SMALL[policy] if isinstance(policy, str) else {}
        policy_kwargs = small | settings.pop("policy_kwargs", {})
        return TRPO(policy, env, policy_kwargs=policy_kwargs, **(defaults | settings))

    return make
