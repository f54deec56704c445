"""Search spaces for RL Zoo's ``-optimize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


MEMORY = ("recurrent", "lstm_hidden_size", "enable_critic_lstm")


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
        "n_steps_pow": trial.suggest_int("n_steps_pow", 8, 12),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 0.0001, 0.1, log=True),
        "target_kl": trial.suggest_float("target_kl", 0.001 * dimensions, 0.1 * dimensions, log=True),
        "cg_damping": trial.suggest_float("cg_damping", 0.001 * dimensions, 0.3 * dimensions, log=True),
        "cg_max_steps": trial.suggest_int("cg_max_steps", 5, 30),
        "critic": trial.suggest_categorical("critic", ["trust_region", "adam"]),
        "ent_coef": trial.suggest_float("ent_coef", -0.01, 0.01),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium"]),
        "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
    }
    if sampled["critic"] == "trust_region":
        sampled["n_critic_steps"] = trial.suggest_int("n_critic_steps", 1, 8)
    else:
        # A minibatch is never larger than what a single environment gives.
        sampled["batch_size_pow"] = trial.suggest_int("batch_size_pow", 5, 8)
        sampled["learning_rate"] = trial.suggest_float("learning_rate", 1e-5, 0.002, log=True)
        sampled["n_critic_updates"] = trial.suggest_int("n_critic_updates", 5, 30)
    arguments = convert_on_policy(sampled)
    for name in ("gamma", "gae_lambda", "n_steps"):
        # Shown in the study beside the sampled form, which nobody can read.
        trial.set_user_attr(name, arguments[name])
    return arguments


def convert_recurrent(sampled: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into keyword arguments of RecurrentTRPO's constructor.

    :param sampled: as for :func:`convert_on_policy`, and settings of the memory
    :return: keyword arguments of the constructor
    """
    memory = {name: sampled[name] for name in MEMORY}
    arguments = convert_on_policy({name: value for name, value in sampled.items() if name not in MEMORY})
    return {**arguments, "policy_kwargs": {**arguments["policy_kwargs"], **memory}}


def sample_recurrent(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Draw hyperparameters of RecurrentTRPO. Arguments and result as :func:`sample_trpo`.
    """
    memory = {
        "recurrent": trial.suggest_categorical("recurrent", ["lstm", "gru"]),
        "lstm_hidden_size": trial.suggest_categorical("lstm_hidden_size", [32, 64, 128, 256]),
        "enable_critic_lstm": trial.suggest_categorical("enable_critic_lstm", [True, False]),
    }
    arguments = sample_trpo(trial, n_actions, n_envs, additional_args)
    return {**arguments, "policy_kwargs": {**arguments["policy_kwargs"], **memory}}


def convert_acer(sampled: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a trial into keyword arguments of ACER's constructor.

    :param sampled: as for :func:`convert_on_policy`, without a λ, which Retrace has not
    :return: keyword arguments of the constructor
    """
    arguments = convert_on_policy(sampled | {"one_minus_gae_lambda": 0.0})
    del arguments["gae_lambda"]
    return arguments


def sample_acer(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Draw hyperparameters of ACER.

    :param trial: the trial that chooses
    :param n_actions: dimension of a Box action space; 0 for any other
    :param n_envs: number of environments, not used
    :param additional_args: what other algorithms need, not used
    :return: keyword arguments of the constructor
    """
    sampled = {
        "n_steps_pow": trial.suggest_int("n_steps_pow", 3, 7),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 0.003, log=True),
        "replay_ratio": trial.suggest_categorical("replay_ratio", [1, 2, 4, 8]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 0.1, log=True),
        "q_coef": trial.suggest_float("q_coef", 0.1, 2.0, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.5, 40.0, log=True),
        "importance_clip": trial.suggest_float("importance_clip", 1.0, 20.0, log=True),
        "trust_region_delta": trial.suggest_float("trust_region_delta", 0.01, 1.0, log=True),
        "use_rms_prop": trial.suggest_categorical("use_rms_prop", [True, False]),
        "average_policy_decay": trial.suggest_categorical("average_policy_decay", [0.9, 0.99, 0.995]),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium"]),
        "activation_fn": trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
    }
    if n_actions:
        sampled["learn_std"] = trial.suggest_categorical("learn_std", [False, True])
    arguments = convert_acer(sampled)
    for name in ("gamma", "n_steps"):
        # Shown in the study beside the sampled form, which nobody can read.
        trial.set_user_attr(name, arguments[name])
    return arguments
