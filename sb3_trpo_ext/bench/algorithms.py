"""The algorithms that are trained side by side, by RL Zoo's names."""

from sb3_trpo_ext.zoo.registration import ALGORITHMS

OURS = tuple(ALGORITHMS)
#: In the order of reports: ours, then what we compare with.
ALGOS = (*OURS, "trpo", "ppo", "ppo_lstm", "a2c")
#: What the others are compared with, unless another is asked for.
BASELINE = "trpo"
#: Label → what reports call it. A label of changed settings is its own name.
NAMES = {
    "trpo_ext": "trpo_ext (ours)",
    "trpo": "sb3-contrib trpo",
    "trpo_lstm": "trpo_lstm (ours)",
    "trpo_mask": "trpo_mask (ours)",
    "ppo": "SB3 ppo",
    "ppo_lstm": "sb3-contrib ppo_lstm",
    "a2c": "SB3 a2c",
    "acer": "acer (ours)",
}


def shown(label: str) -> str:
    """
    :param label: of results
    :return: what reports call it
    """
    return NAMES.get(label, label)
