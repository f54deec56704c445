"""The environment's side: what others step in batches, as a VecEnv that shows no transition that never was."""

from sb3_trpo_ext.common.in_process_vec_env import InProcessVecEnv
from sb3_trpo_ext.envs.conversion import as_vec_env
from sb3_trpo_ext.envs.gymnasium_vec_env import GymnasiumVecEnv

__all__ = ["GymnasiumVecEnv", "InProcessVecEnv", "as_vec_env"]
