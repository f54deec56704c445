"""Which vector environments can be stepped without transitions that never were."""

from typing import Any

from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorObservationWrapper, VectorWrapper

SAME_STEP = "autoreset_mode=AutoresetMode.SAME_STEP"
FUNCTIONS = "give as_vec_env() a list of functions that make the environments."


def is_of_envpool(thing: Any) -> bool:
    """Whether something was made by EnvPool, which need not be installed."""
    return any(kind.__module__.partition(".")[0] == "envpool" for kind in type(thing).__mro__)


def autoreset_mode(vector_env: VectorEnv[Any, Any, Any]) -> str | None:
    """NextStep, SameStep or Disabled; None where it does not say."""
    mode = vector_env.metadata.get("autoreset_mode")
    return getattr(mode, "value", mode)


def check(vector_env: Any) -> None:
    """
    :raises ValueError: when no way is known to step it without transitions that never were
    """
    if is_of_envpool(vector_env):
        _check_envpool(vector_env)
        return
    mode, base = autoreset_mode(vector_env), vector_env.unwrapped
    if mode not in ("NextStep", "SameStep", "Disabled"):
        raise ValueError(
            f"{vector_env} does not say in metadata['autoreset_mode'] how it is reset, got {mode!r}. With gymnasium "
            "before 1.1 no vector environment does, nor does a wrapper around EnvPool's. Take wrappers away, or "
            f"{FUNCTIONS}"
        )
    if mode == "NextStep":
        if not isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
            raise ValueError(
                f"{vector_env} resets in the step after an episode's last, and it is not known whether it does so when "
                'it was reset before. Write vectorization_mode="sync" if it is of gymnasium.make_vec, '
                f"{SAME_STEP} if it is of your own, or {FUNCTIONS}"
            )
        if isinstance(base, AsyncVectorEnv) and not base.shared_memory:
            raise ValueError(
                f"{vector_env} resets in the step after an episode's last, even if it was reset before, as it was made "
                f"with shared_memory=False. Leave that away, or {FUNCTIONS}"
            )
    while mode != "SameStep" and isinstance(vector_env, VectorWrapper):
        if type(vector_env).reset not in (VectorWrapper.reset, VectorObservationWrapper.reset):
            raise ValueError(
                f"{type(vector_env).__name__} has a reset of its own, and may forget more than the episodes that have "
                "ended. Put what it does around the single environments, take it away, or write "
                f"{SAME_STEP} where it goes together with that."
            )
        vector_env = vector_env.env


def _check_envpool(vector_env: Any) -> None:
    """
    :raises ValueError: when it returns something else in a step than one row of each environment
    """
    name = type(vector_env).__name__
    if not isinstance(vector_env, VectorEnv):
        raise ValueError(
            f"{name} is no vector environment of gymnasium's. With EnvPool 1.2 or later, write "
            'envpool.make(…, env_type="gymnasium").'
        )
    config: dict[str, Any] = vector_env.config  # type: ignore[attr-defined]
    if vector_env.is_async:  # type: ignore[attr-defined]
        raise ValueError(
            f"{name} returns {config['batch_size']} of {config['num_envs']} environments in a step, and a VecEnv "
            "returns all. Leave batch_size away."
        )
    if config["max_num_players"] > 1:
        raise ValueError(f"{name} has {config['max_num_players']} players, and a VecEnv has one. Take another task.")
