"""
RL Zoo knows our algorithms: training, tuning, watching, recording and plotting them with RL Zoo's own commands.

Registered either by the start-up hook that installation puts into site-packages, when ``rl_zoo3`` is imported, or by
:func:`register`, which ``python -m sb3_trpo_ext.zoo`` calls.
"""

from sb3_trpo_ext.zoo.registration import register, register_in

__all__ = ["register", "register_in"]
