"""What ACER trains: the policy and its running average."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sb3_trpo_ext.acer.interruption import signals_wait
from sb3_trpo_ext.acer.networks import networks_of
from sb3_trpo_ext.acer.policies import MlpPolicy
from sb3_trpo_ext.common.ranks import ALONE, Ranks, average_gradients
from sb3_trpo_ext.kernels.vector import count


class Learner:
    """
    What is learned. Going through modules in search of their parameters would cost as much as a small network's
    gradient, so they are looked for once.

    :param policy: in evaluation mode; changed by its optimizer
    :param average: the average policy, of the same structure, in evaluation mode
    :param ranks: gives those that average their gradients
    """

    def __init__(self, policy: MlpPolicy, average: MlpPolicy, ranks: Callable[[], Ranks] = lambda: ALONE):
        self.policy, self.average, self._ranks = policy, average, ranks
        for parameter in policy.parameters():  # or the optimizer would go on with those of layers that are now frozen
            parameter.grad = None
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        pairs = list(zip(average.parameters(), policy.parameters(), strict=True))
        self._averages = [mean.detach() for mean, present in pairs if present.requires_grad]
        frozen = [(mean.detach(), present.detach()) for mean, present in pairs if not present.requires_grad]
        self._copied = [*frozen, *zip(average.buffers(), policy.buffers(), strict=True)]
        self._present = [parameter.detach() for parameter in self.parameters]
        self.n_parameters = count(self.parameters)
        self.networks = networks_of(policy, average)

    def copy_what_is_not_averaged(self) -> None:
        """Frozen parameters and buffers, such as running statistics: the average policy has the policy's own."""
        for mean, present in self._copied:
            mean.copy_(present)

    def descend(
        self, write_gradients: Callable[[], Tensor | None], max_grad_norm: float, average_policy_decay: float
    ) -> Tensor:
        """
        One step of the optimizer, then θ_avg ← α θ_avg + (1 − α) θ. Nothing is changed if the gradient is not finite.
        A signal such as that of Ctrl-C acts before or after all of this.

        :param write_gradients: of a loss, to the parameters; returns all of them as one vector in their memory, or None
        :param max_grad_norm: limit of the gradient's norm
        :param average_policy_decay: α, in [0, 1]
        :return: the norm of the gradient before it was clipped
        """
        for parameter in self.parameters:
            parameter.grad = None
        gradient = write_gradients()
        if (ranks := self._ranks()) is not ALONE:
            average_gradients(self.parameters, 0.0, 1, ranks)
        if gradient is None:
            norm = nn.utils.clip_grad_norm_(self.parameters, max_grad_norm, foreach=True)
        else:  # the same in a few operations
            norm = gradient.norm()
            gradient *= (max_grad_norm / (norm + 1e-6)).clamp(max=1)
        if norm.isfinite():
            with signals_wait():  # Ctrl-C must not leave some parameters before the step and others after it
                self.policy.optimizer.step()
                move = get_ema_multi_avg_fn(average_policy_decay)  # type: ignore[no-untyped-call]
                move(self._averages, self._present, 0)
        return norm
