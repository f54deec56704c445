"""The samples of an update as flat tensors."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from sb3_trpo_ext.common.observations import Observations, every, joined

# A spread of the advantages below this share of the largest is rounding noise of float32, not information.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Batch:
    """
    N = n_steps × n_envs samples in the buffer's order: one environment after the other, each in time order.

    :param observations: N of them, as the policy takes them
    :param actions: as stored, shape (N, d)
    :param advantages: shape (N,)
    :param returns: targets of the critic, shape (N,)
    :param values: predicted by the present critic, shape (N,)
    :param old_log_prob: log μ(a|s) of the policy μ that acted, shape (N,); None when that is the present policy
    """

    observations: Observations
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    old_log_prob: Tensor | None = None

    def every(self, k: int) -> "Batch":
        """Every k-th sample, k ≥ 1."""
        if k == 1:
            return self
        return Batch(
            every(self.observations, k),
            self.actions[::k],
            self.advantages[::k],
            self.returns[::k],
            self.values[::k],
            None if self.old_log_prob is None else self.old_log_prob[::k],
        )

    def followed_by(self, other: "Batch") -> "Batch":
        """
        The samples of both.

        :param other: with ``old_log_prob``, as this one
        """
        parts = ("actions", "advantages", "returns", "values", "old_log_prob")
        vectors = (torch.cat([getattr(self, part), getattr(other, part)]) for part in parts)
        return Batch(joined([self.observations, other.observations]), *vectors)

    def normalized(self) -> "Batch":
        """
        With advantages of mean 0 and standard deviation 1.

        Advantages that are all equal say nothing about the actions: they become exactly 0, where dividing by their
        spread would blow rounding noise up into a direction.
        """
        tiny = torch.finfo(self.advantages.dtype).tiny
        relative = self.advantages / self.advantages.abs().max().clamp(min=tiny)  # so that no square overflows
        centred = relative - relative.mean()
        spread = centred.std()
        if spread <= ROUNDING:
            return replace(self, advantages=torch.zeros_like(centred))
        return replace(self, advantages=centred / spread)

    def not_finite(self) -> list[str]:
        """The names of the parts that hold NaN or infinity; empty when all is well."""
        parts = {"actions": self.actions, "advantages": self.advantages, "returns": self.returns}
        if isinstance(self.observations, dict):
            parts |= {f"observations[{key!r}]": value for key, value in self.observations.items()}
        else:
            parts["observations"] = self.observations
        return [name for name, tensor in parts.items() if not bool(torch.isfinite(tensor).all())]


def full_batch(buffer: RolloutBuffer) -> Batch:
    """
    All samples of a full rollout buffer, unshuffled.

    :param buffer: filled, with returns and advantages computed
    """
    # The buffer lays its arrays out flat on the first sample that is drawn; `get` alone would shuffle.
    next(buffer.get(batch_size=1))
    samples = buffer._get_samples(np.arange(buffer.buffer_size * buffer.n_envs))
    return Batch(samples.observations, samples.actions, samples.advantages, samples.returns, samples.old_values)
