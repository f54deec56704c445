"""Trust Region Policy Optimization."""

from sb3_trpo_ext.trpo.masked import MaskableTRPO
from sb3_trpo_ext.trpo.masked_policies import MaskableCnnPolicy, MaskableMlpPolicy, MaskableMultiInputPolicy
from sb3_trpo_ext.trpo.masks import MaskFromInfo
from sb3_trpo_ext.trpo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_trpo_ext.trpo.recurrent import RecurrentTRPO
from sb3_trpo_ext.trpo.recurrent_policies import RecurrentCnnPolicy, RecurrentMlpPolicy, RecurrentMultiInputPolicy
from sb3_trpo_ext.trpo.trpo import TRPO

__all__ = [
    "TRPO",
    "CnnPolicy",
    "MaskFromInfo",
    "MaskableCnnPolicy",
    "MaskableMlpPolicy",
    "MaskableMultiInputPolicy",
    "MaskableTRPO",
    "MlpPolicy",
    "MultiInputPolicy",
    "RecurrentCnnPolicy",
    "RecurrentMlpPolicy",
    "RecurrentMultiInputPolicy",
    "RecurrentTRPO",
]
