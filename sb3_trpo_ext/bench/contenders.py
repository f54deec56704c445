"""The two sides: built alike, run alike, with a stopwatch on the parts of each."""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import sb3_contrib
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_trpo_ext
from sb3_trpo_ext.bench.cases import Case, UpdateCase
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.envs import as_vec_env
from sb3_trpo_ext.trpo.settings import trust_region
from sb3_trpo_ext.trust_region.rollout import Rollout

# The same work: as many steps of the conjugate gradient as `match_steps` says, whatever the residual, sb3-contrib's
# meaning of target_kl and cg_damping, its critic, observations as they are and its noise.
SAME_WORK = {"cg_tolerance": 0.0, "kl_reduction": "mean", "critic": "adam"}
SAME_POLICY = {"normalize_observations": False, "log_std_init": 0.0}
# Ours with other settings, against sb3-contrib's all the same: suffix of the case's name → settings.
VARIANTS = {"curvature-thinned-10": {"curvature_sampling_factor": 10}}
# Ours without settings, in the environments that are given and in as_vec_env of them.
OURS, OURS_AS_VEC_ENV = "ours", "ours, as_vec_env"
PRODUCTS = 5  # Fisher products of ours that are timed after each update; sb3-contrib's are timed in its CG

Seconds = dict[str, float]


class Span(NamedTuple):
    """
    :param start: on ``time.perf_counter``
    :param end: on the same
    """

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def now() -> float:
    """``time.perf_counter`` once the GPU, if one is in use, has done all that it was told to."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch:
    """Notes when methods of chosen objects are called."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)

    def watch(self, owner: object, name: str) -> None:
        """
        :param owner: an object, not a class
        :param name: of its method
        """
        method = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            started = now()
            result = method(*args, **kwargs)
            self.spans[name].append(Span(started, now()))
            return result

        setattr(owner, name, watched)


@dataclass(frozen=True)
class Contender:
    """
    One side of a comparison.

    :param model: with an environment of its own
    :param watch: on its methods ``collect_rollouts`` and ``train`` at least
    :param split: the contender after an update → seconds of the update's parts
    :param settings: what the model was constructed with
    """

    model: OnPolicyAlgorithm
    watch: Stopwatch
    split: Callable[["Contender"], Seconds]
    settings: dict[str, Any]

    @property
    def does_the_same_work(self) -> bool:
        """Whether :func:`match_steps` is for it."""
        return SAME_WORK.items() <= self.settings.items()


def environment(case: Case | UpdateCase) -> DummyVecEnv:
    """
    The case's environments as users have them: monitored, one after the other in this process.

    :param case: to build for
    """
    return DummyVecEnv([lambda: Monitor(case.make())] * getattr(case, "n_envs", 1))


def given(case: Case | UpdateCase) -> GymEnv:
    """
    The same as users pass them to a constructor, which makes of a single one what it likes.

    :param case: to build for
    """
    env = environment(case)
    return env if env.num_envs > 1 else env.envs[0]


def contrib(case: Case | UpdateCase, seed: int, device: str = "cpu") -> Contender:
    """
    sb3-contrib's TRPO.

    :param case: settings
    :param seed: of everything
    :param device: of the policy
    """
    contender = _contender(sb3_contrib.TRPO, case, seed, device, _split_contrib, case.arguments)
    contender.watch.watch(contender.model, "hessian_vector_product")
    contender.watch.watch(contender.model.rollout_buffer, "get")
    return contender


def ours(case: Case | UpdateCase, seed: int, device: str = "cpu", **variant: Any) -> Contender:
    """
    This package's TRPO, made to do the same work.

    :param case: settings
    :param seed: of everything
    :param device: of the policy
    :param variant: settings in which it differs
    """
    settings = {**case.arguments, **SAME_WORK, "curvature_sampling_factor": 1, **variant}
    settings["policy_kwargs"] = {**SAME_POLICY, **settings["policy_kwargs"]}
    return _contender(sb3_trpo_ext.TRPO, case, seed, device, _split_ours, settings)


def ours_by_default(case: Case | UpdateCase, seed: int, device: str = "cpu") -> Contender:
    """
    This package's TRPO as it is without settings: other steps, and another fit of the critic.

    :param case: rollout and networks
    :param seed: of everything
    :param device: of the policy
    """
    settings = {name: case.arguments[name] for name in ("n_steps", "policy_kwargs")}
    return _contender(sb3_trpo_ext.TRPO, case, seed, device, _split_ours, settings)


def without_settings(case: Case, seed: int, device: str = "cpu") -> dict[str, OnPolicyAlgorithm]:
    """
    What users may take instead, each as its constructor has it but for networks and, where it is not A2C, the size of a
    rollout.

    :param case: rollout, networks and environments
    :param seed: of everything
    :param device: of the policies
    :return: by name; ours, as :func:`ours_by_default` has it, is not among them
    """
    own = {"policy_kwargs": case.arguments["policy_kwargs"], "seed": seed, "device": device}
    rollout = {"n_steps": case.arguments["n_steps"]}
    models: dict[str, OnPolicyAlgorithm] = {
        OURS_AS_VEC_ENV: sb3_trpo_ext.TRPO(case.policy, as_vec_env(environment(case)), **rollout, **own),
        "SB3's PPO": PPO(case.policy, given(case), **rollout, **own),
        "SB3's A2C": A2C(case.policy, given(case), **own),
    }
    for model in models.values():
        model.set_logger(Logger(folder=None, output_formats=[]))
    return models


def learn_once(model: OnPolicyAlgorithm, samples: int, seed: int) -> float:
    """
    Train on for at least as many steps.

    :param model: goes on from where it is
    :param samples: steps of all environments together
    :param seed: of the turn
    :return: seconds for so many steps
    """
    torch.manual_seed(seed)
    np.random.seed(seed)
    before = model.num_timesteps
    with undisturbed():
        started = now()
        model.learn(samples, reset_num_timesteps=False)
        seconds = now() - started
    return seconds * samples / (model.num_timesteps - before)


def _contender(
    algorithm: type[OnPolicyAlgorithm],
    case: Case | UpdateCase,
    seed: int,
    device: str,
    split: Callable[[Contender], Seconds],
    settings: dict[str, Any],
) -> Contender:
    model = algorithm(getattr(case, "policy", "MlpPolicy"), given(case), seed=seed, device=device, **settings)
    model.set_logger(Logger(folder=None, output_formats=[]))
    watch = Stopwatch()
    watch.watch(model, "collect_rollouts")
    watch.watch(model, "train")
    return Contender(model, watch, split, settings)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without garbage collection, which would strike one side at random; what there is to collect goes first."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def train_once(contender: Contender, seed: int) -> Seconds:
    """
    One rollout and one update through the model's own ``learn``.

    :param contender: goes on from where it is
    :param seed: of the turn, so that both sides draw the same actions as long as their policies agree
    :return: part → seconds
    """
    contender.watch.spans.clear()
    seconds = learn_once(contender.model, contender.model.n_steps * contender.model.n_envs, seed)
    (rollout,), (update,) = (contender.watch.spans[name] for name in ("collect_rollouts", "train"))
    parts = {"rollout": rollout.seconds, **contender.split(contender), "update": update.seconds}
    return {**parts, "end to end": seconds}


def match_steps(theirs: Contender, mine: Contender) -> int:
    """
    Make ours take as many steps of the conjugate gradient as sb3-contrib took in its last update. Its absolute
    tolerance ends it early where gradients are small.

    :param theirs: sb3-contrib's, after an update
    :param mine: ours, before the update of the same turn
    :return: the steps
    """
    # One product more is for its start from noise, and one for the length of the step.
    steps = max(1, len(theirs.watch.spans["hessian_vector_product"]) - 2)
    assert isinstance(mine.model, sb3_trpo_ext.TRPO)
    mine.model.cg_max_steps = steps
    return steps


def prepare(contenders: list[Contender], seed: int) -> None:
    """
    Give all the same policy and the same synthetic rollout.

    :param contenders: built from the same :class:`UpdateCase`
    :param seed: of the rollout
    """
    first = contenders[0].model
    space = first.observation_space
    n = first.n_steps
    generator = np.random.default_rng(seed)
    observations = generator.standard_normal((n, *(space.shape or ()))).astype(np.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        asked = first.policy(torch.as_tensor(observations, device=first.device))
        actions, values, log_probs = (answer.cpu().numpy() for answer in asked)
    advantages = generator.standard_normal((n, 1)).astype(np.float32)
    for contender in contenders:
        # Where ours normalises observations, its statistics are not among sb3-contrib's parameters.
        contender.model.policy.load_state_dict(first.policy.state_dict(), strict=False)
        buffer = contender.model.rollout_buffer
        buffer.observations[:, 0] = observations
        buffer.actions[:, 0] = actions
        buffer.values[:] = values
        buffer.log_probs[:, 0] = log_probs
        buffer.advantages[:] = advantages
        buffer.returns[:] = buffer.values + advantages
        buffer.pos, buffer.full = n, True


def update_once(contender: Contender, critic: bool = False) -> Seconds:
    """
    One update on the prepared rollout; afterwards the policy is what it was.

    :param contender: that :func:`prepare` has seen
    :param critic: whether the critic's fit counts, alone and in the whole update
    :return: part → seconds
    """
    model = contender.model
    start = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    contender.watch.spans.clear()
    with undisturbed():
        model.train()
    parts = contender.split(contender)
    model.policy.load_state_dict(start)
    seconds = parts.pop("critic")
    return {**parts, "critic": seconds, "update": parts["policy update"] + seconds} if critic else parts


def _split_contrib(contender: Contender) -> Seconds:
    """
    From the moments at which sb3-contrib's ``train`` calls its own methods: all the Fisher products, the last of which
    gives the step's length, make up the CG; the second time it draws samples, the critic begins.
    """
    (train,), products = contender.watch.spans["train"], contender.watch.spans["hessian_vector_product"]
    critic = contender.watch.spans["get"][1].start
    return {
        "gradient": products[0].start - train.start,
        "one Fisher product": median(product.seconds for product in products),
        "CG": products[-1].end - products[0].start,
        "line search": critic - products[-1].end,
        "policy update": critic - train.start,
        "critic": train.end - critic,
    }


def _split_ours(contender: Contender) -> Seconds:
    """From the times that training logs. As with sb3-contrib's, the gradient includes all that comes before it."""
    logged = contender.model.logger.name_to_value
    cg, search, critic = (logged[f"time/{part}_seconds"] for part in ("cg", "line_search", "critic"))
    (train,) = contender.watch.spans["train"]
    return {
        "gradient": train.seconds - cg - search - critic,
        "one Fisher product": _fisher_product_seconds(contender.model),
        "CG": cg,
        "line search": search,
        "policy update": train.seconds - critic,
        "critic": critic,
    }


def _fisher_product_seconds(model: OnPolicyAlgorithm) -> float:
    """Median time of a product like those of the update that has just ended."""
    assert isinstance(model, sb3_trpo_ext.TRPO)
    batch = Rollout.of(model.rollout_buffer, model.actor.heads).batch()
    fisher = trust_region(model).curvature(model.actor, batch, model.actor.linearize(batch.inputs))
    vector = torch.randn(sum(parameter.numel() for parameter in model.actor.parameters), device=model.device)
    spans = []
    with undisturbed(), torch_threads(model.num_threads, batch.size, len(vector)):
        fisher @ vector
        for _ in range(PRODUCTS):
            started = now()
            fisher @ vector
            spans.append(now() - started)
    return median(spans)


def environment_seconds(env: DummyVecEnv, steps: int) -> float:
    """
    The floor: the environments alone, with random actions drawn in advance.

    :param env: to step in
    :param steps: of each of its environments
    :return: seconds for all steps together
    """
    actions = [np.stack([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(steps)]
    env.reset()
    with undisturbed():
        started = time.perf_counter()
        for action in actions:
            env.step(action)
        return time.perf_counter() - started
