"""The learning benchmark's tasks, and between which two returns each is scaled so that tasks can be averaged."""

from typing import NamedTuple


class Task(NamedTuple):
    """
    :param environment: its name in gymnasium
    :param timesteps: of training
    """

    environment: str
    timesteps: int

    def __str__(self) -> str:
        return f"{self.environment} {short(self.timesteps)}"


CLASSIC = (
    Task("CartPole-v1", 100_000),
    Task("Acrobot-v1", 100_000),
    Task("MountainCar-v0", 100_000),
    Task("Pendulum-v1", 100_000),
    Task("MountainCarContinuous-v0", 50_000),
)
BOX2D = (
    Task("LunarLander-v3", 200_000),
    Task("LunarLanderContinuous-v3", 200_000),
    Task("BipedalWalker-v3", 1_000_000),
)
LOCOMOTION = ("HalfCheetah", "Ant", "Hopper", "Walker2d", "Humanoid", "Swimmer")
MUJOCO = tuple(Task(f"{name}-v4", 1_000_000) for name in LOCOMOTION)
MUJOCO_V5 = (
    *(Task(f"{name}-v5", 1_000_000) for name in LOCOMOTION),
    Task("Reacher-v5", 300_000),
    Task("InvertedDoublePendulum-v5", 300_000),
)
# Without velocities: a policy without memory can not solve them.
MEMORY = (
    Task("CartPoleNoVel-v1", 100_000),
    Task("PendulumNoVel-v1", 100_000),
    Task("MountainCarContinuousNoVel-v0", 300_000),
)
# Where learning again from what is stored should pay: games of small images, rewards that come late.
REPLAY = (
    Task("Catch-v0", 20_000),
    Task("CartPole-v1", 50_000),
    Task("LunarLander-v3", 1_000_000),
    *(Task(f"MinAtar/{game}-v1", 500_000) for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")),
)
SUITES = {
    # Minutes, and far from solved at the end: a return at its ceiling would tell nothing.
    "quick": (Task("CartPole-v1", 20_000), Task("Pendulum-v1", 40_000)),
    "classic": CLASSIC,
    "box2d": BOX2D,
    "mujoco": MUJOCO,
    "mujoco-v5": MUJOCO_V5,
    "memory": MEMORY,
    "replay": REPLAY,
    "all": (*CLASSIC, *BOX2D, *MUJOCO),
}

#: Environment → (mean return of random actions over 30 episodes, a good return: what counts as solved, or what tuned
#: on-policy algorithms reach in a million steps). Fixed, so that a stored score keeps its meaning; only a scale, not a
#: goal.
SCALE = {
    "CartPole-v1": (24.5, 500.0),
    "Acrobot-v1": (-491.0, -80.0),
    "MountainCar-v0": (-200.0, -110.0),
    "Pendulum-v1": (-1238.9, -150.0),
    "MountainCarContinuous-v0": (-33.1, 95.0),
    "CartPoleNoVel-v1": (24.5, 500.0),
    "PendulumNoVel-v1": (-1238.9, -150.0),
    "MountainCarContinuousNoVel-v0": (-33.1, 95.0),
    "LunarLander-v3": (-220.5, 250.0),
    "LunarLanderContinuous-v3": (-221.2, 250.0),
    "BipedalWalker-v3": (-106.3, 300.0),
    "Catch-v0": (-0.59, 1.0),
    "MinAtar/Asterix-v1": (0.4, 10.0),
    "MinAtar/Breakout-v1": (0.3, 10.0),
    "MinAtar/Freeway-v1": (0.3, 50.0),
    "MinAtar/Seaquest-v1": (0.0, 10.0),
    "MinAtar/SpaceInvaders-v1": (4.8, 50.0),
    "HalfCheetah-v4": (-273.6, 5000.0),
    "Ant-v4": (-18.3, 5000.0),
    "Hopper-v4": (21.0, 3000.0),
    "Walker2d-v4": (2.3, 5000.0),
    "Humanoid-v4": (122.2, 3000.0),
    "Swimmer-v4": (-1.3, 360.0),
    "HalfCheetah-v5": (-273.6, 5000.0),
    "Ant-v5": (-19.4, 5000.0),
    "Hopper-v5": (20.0, 3000.0),
    "Walker2d-v5": (1.3, 5000.0),
    "Humanoid-v5": (113.6, 3000.0),
    "Swimmer-v5": (-1.3, 360.0),
    "Reacher-v5": (-43.7, -4.0),
    "InvertedDoublePendulum-v5": (48.3, 9300.0),
}

#: Environment → the return to which the time is taken: of a policy that does the task, though not yet at its best.
SCORES = {
    "CartPole-v1": 475.0,
    "LunarLander-v3": 100.0,
    "HalfCheetah-v4": 3000.0,
    "Hopper-v4": 2500.0,
    "Walker2d-v4": 3000.0,
}


def normalised(environment: str, score: float) -> float:
    """
    A return on the scale on which tasks are averaged: 0 is random, 1 is good.

    :param environment: a key of :data:`SCALE`
    :param score: a return
    """
    random, good = SCALE[environment]
    return (score - random) / (good - random)


def short(timesteps: int) -> str:
    """
    :param timesteps: such as 200000
    :return: such as 200k
    """
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if timesteps >= unit:
            return f"{timesteps / unit:g}{letter}"
    return str(timesteps)
