"""Search spaces for RL Zoo's ``-optimize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


def convert_on_policy(sampled: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into keyword arguments of the constructor.

    :param sampled: parameters by the names RL Zoo uses for its own on-policy algorithms: powers of two for sizes,
        one minus the value for discounts, a name for the network
    :return: keyword arguments of the constructor
    """
    # Here, so that the table of algorithms can be read where RL Zoo is not installed.
    from rl_zoo3.hyperparams_opt import convert_onpolicy_params

    arguments: dict[str, Any] = convert_onpolicy_params(sampled)
    return arguments


def sample_trpo(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Draw hyperparameters of TRPO.

    Our KL is summed over action dimensions, so its limit and the damping, which is added to the KL's curvature, grow
    with their number: the same range for a hopper and a humanoid would be two different searches.

    :param trial: the trial that chooses
    :param n_actions: dimension of a Box action space; 0 for any other
    :param n_envs: number of environments, not used
    :param additional_args: what other algorithms need, not used
    :return: keyword arguments of the constructor
    """
    dimensions = max(n_actions, 1)
    sampled = {
        "n_steps_pow": trial.suggest_int("n_steps_pow", 7, 12),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 5, 10),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 0.0001, 0.1, log=True),
        "target_kl": trial.suggest_float("target_kl", 0.001 * dimensions, 0.1 * dimensions, log=True),
        "cg_damping": trial.suggest_float("cg_damping", 0.001 * dimensions, 0.3 * dimensions, log=True),
        "cg_max_steps": trial.suggest_int("cg_max_steps", 5, 30),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 0.002, log=True),
        "n_critic_updates": trial.suggest_int("n_critic_updates", 5, 30),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium"]),
        "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
    }
    arguments = convert_on_policy(sampled)
    for name in ("gamma", "gae_lambda", "n_steps", "batch_size"):
        # Shown in the study beside the sampled form, which nobody can read.
        trial.set_user_attr(name, arguments[name])
    return arguments
