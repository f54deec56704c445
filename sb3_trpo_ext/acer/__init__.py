"""Actor-Critic with Experience Replay."""

from sb3_trpo_ext.acer.acer import ACER
from sb3_trpo_ext.acer.buffer import SequenceReplayBuffer
from sb3_trpo_ext.acer.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["ACER", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SequenceReplayBuffer"]
