"""The part of an SB3 actor-critic policy that predicts returns."""

import torch
from torch import Tensor, nn

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.common.network import Network
from sb3_trpo_ext.kernels.linearize import AutogradLinearization, Linearization
from sb3_trpo_ext.kernels.vector import are_the_same
from sb3_trpo_ext.trust_region.actor import Actor

# Arguments of Adam that ask for another form of it than the fused one.
OTHER_FORMS = {"fused", "foreach", "capturable", "differentiable"}


class ValueFunction:
    """
    The critic: the part of a policy that predicts returns, with its parameters w and the value V_w of each state.

    w is what the actor does not use. ``policy.optimizer`` is replaced by one of the same kind over w, which goes on
    with what the old one remembered.

    :param actor: of a policy in evaluation mode
    :param learning_rate: of the optimizer, to start with
    :param fast: differentiate plain networks by hand; False for autograd always, with the same results
    """

    def __init__(self, actor: Actor, learning_rate: float, fast: bool = True):
        self.heads, self.policy = actor.heads, actor.policy
        policy = self.policy
        self._all_parameters = actor.critic_parameters()
        self._output_layer = self._find_output_layer()
        self._plain = self.heads.critic_network(trains_extractor=not actor.shared_parameters()) if fast else None
        settings = dict(policy.optimizer_kwargs)
        # The same arithmetic in one call instead of dozens, which on small networks is most of a step's time.
        if policy.optimizer_class is torch.optim.Adam and not OTHER_FORMS & settings.keys():
            settings["fused"] = True
        if not self._all_parameters:  # all of it is the actor's too, or there is nothing to train
            return
        memory = policy.optimizer.state if type(policy.optimizer) is policy.optimizer_class else {}
        policy.optimizer = policy.optimizer_class(self._all_parameters, lr=learning_rate, **settings)  # type: ignore[call-arg]
        policy.optimizer.state.update({one: memory[one] for one in self._all_parameters if one in memory})

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that are trained: all of w but what is frozen."""
        return [parameter for parameter in self._all_parameters if parameter.requires_grad]

    @property
    def network(self) -> Network | None:
        """w → V as a network that is differentiated by hand; None when autograd does it."""
        plain = self._plain
        if plain is None or not are_the_same(plain.parameters, self.parameters):
            return None
        return plain

    @property
    def output_weight(self) -> Tensor | None:
        """W of the linear layer V = W h + b that ends the network, shape (1, k); None where none is trained."""
        return self._trained(None if self._output_layer is None else self._output_layer.weight)

    @property
    def output_bias(self) -> Tensor | None:
        """b of the same layer, shape (1,); None where none is trained."""
        return self._trained(None if self._output_layer is None else self._output_layer.bias)

    def units(self, scale: float) -> list[float]:
        """
        How large a change of each parameter is that changes V by about as much as a change of 1 of an output weight,
        when V is of a given size: 1 for W and b, and 1 / scale for what is behind W, which grows with V.

        Where nobody knows which layer gives V its size, it is 1 for all.

        :param scale: > 0, of V
        :return: a number for each of the parameters
        """
        output = (self.output_weight, self.output_bias)
        inner = 1.0 if self._output_layer is None else 1 / scale
        return [1.0 if any(parameter is own for own in output) else inner for parameter in self.parameters]

    @torch.no_grad()
    def values(self, inputs: Inputs) -> Tensor:
        """V of n states, shape (n, 1)."""
        network = self.network
        if network is None:
            return self.heads.values(inputs)
        return network.forward(inputs)

    def linearize(self, inputs: Inputs) -> Linearization:
        """w → V of n states, shape (n, 1), and how it changes with w."""
        network = self.network
        if network is None:
            return AutogradLinearization((self.heads.values(inputs),), self.parameters)
        return network.linearize(inputs)

    def is_finite(self) -> bool:
        """Whether w is, and what the optimizer remembers of its gradients."""
        memory = [item for state in self.policy.optimizer.state.values() for item in state.values()]
        tensors = [*self._all_parameters, *(item for item in memory if isinstance(item, Tensor))]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def _trained(self, parameter: Tensor | None) -> Tensor | None:
        return parameter if any(parameter is trained for trained in self.parameters) else None

    @torch.no_grad()
    def _find_output_layer(self) -> nn.Linear | None:
        """The linear layer whose output is V as it stands, whatever the policy calls it."""
        outputs: list[tuple[nn.Linear, Tensor]] = []

        def note(module: nn.Module, _: object, output: Tensor) -> None:
            assert isinstance(module, nn.Linear)
            outputs.append((module, output))

        # A subclass may use its weight in another way, and a hook may change the output.
        linear = [m for m in self.policy.modules() if type(m) is nn.Linear and not m._forward_hooks]
        hooks = [module.register_forward_hook(note) for module in linear]
        try:
            values = self.heads.values(self.heads.blank())
        finally:
            for hook in hooks:
                hook.remove()
        return next((module for module, output in outputs if output is values), None)
