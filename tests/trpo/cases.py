"""What TRPO's tests share: spaces, kinds of models, and a line search that always fails."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_trpo_ext.kernels.line_search import LineSearchResult, TrialT

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
BOX = spaces.Box(-1, 1, (2,))
# Policy, observations, actions.
KINDS = {
    "mlp": ("MlpPolicy", VECTOR, BOX),
    "mlp_discrete": ("MlpPolicy", VECTOR, spaces.Discrete(3)),
    "mlp_multi_binary": ("MlpPolicy", VECTOR, spaces.MultiBinary(3)),
    "cnn": ("CnnPolicy", IMAGE, BOX),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE), BOX),
}


def predictions(model: OnPolicyAlgorithm, observations: Any) -> Any:
    """Without exploration."""
    return model.predict(observations, deterministic=True)[0]


def never_satisfied(
    evaluate: Callable[[float], TrialT],
    start: float,
    target_kl: float,
    line_search_shrinking_factor: float,
    line_search_max_iter: int,
) -> LineSearchResult[TrialT]:
    """A line search that tries everything and likes nothing."""
    trials = [evaluate(line_search_shrinking_factor**i) for i in range(line_search_max_iter)]
    return LineSearchResult(False, 0.0, trials[-1], line_search_max_iter)
