"""Trust-region policy optimization for Stable-Baselines3."""

from sb3_trpo_ext.acer import ACER
from sb3_trpo_ext.trpo import TRPO, MaskableTRPO, RecurrentTRPO

__version__ = "0.1.0"
__all__ = ["ACER", "TRPO", "MaskableTRPO", "RecurrentTRPO", "__version__"]
