"""Trust-region policy optimization for Stable-Baselines3."""

from sb3_trpo_ext.trpo import TRPO

__version__ = "0.1.0"
__all__ = ["TRPO", "__version__"]
