"""Small models."""

from collections.abc import Callable
from typing import Any

import pytest

from sb3_trpo_ext import ACER

SMALL: dict[str, dict[str, Any]] = {
    "MlpPolicy": {"net_arch": [8]},
    "CnnPolicy": {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}},
    "MultiInputPolicy": {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}},
}


@pytest.fixture
def tiny() -> Callable[..., ACER]:
    """A model that is fast to train and replays early: ``tiny(env, policy="MlpPolicy", **arguments of ACER)``."""

    def make(env: Any, policy: Any = "MlpPolicy", **settings: Any) -> ACER:
        defaults = {"n_steps": 6, "buffer_size": 60, "replay_start": 6, "replay_ratio": 2, "seed": 0, "device": "cpu"}
        small = SMALL[policy] if isinstance(policy, str) else {}
        policy_kwargs = small | settings.pop("policy_kwargs", {})
        return ACER(policy, env, policy_kwargs=policy_kwargs, **(defaults | settings))

    return make
