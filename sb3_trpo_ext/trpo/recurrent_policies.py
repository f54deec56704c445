"""
The policies that ``RecurrentTRPO("MlpLstmPolicy", …)``, ``"CnnLstmPolicy"`` and ``"MultiInputLstmPolicy"`` stand for.

Between the features of an observation and the networks of actor and critic is a memory: an LSTM or a GRU. The methods
are called as those of sb3-contrib's recurrent policies, and as SB3's where states and episode starts are left out: each
observation is then the first of its episode.
"""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import CombinedExtractor, MlpExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_trpo_ext.common.normalization import features_of
from sb3_trpo_ext.common.settings import one_of, whole
from sb3_trpo_ext.kernels.recurrent import CELLS, Packed, Weights, packed, run_layers, single_steps
from sb3_trpo_ext.trpo import masks
from sb3_trpo_ext.trpo.masked_policies import MaskableMlpPolicy, count_of

Recurrence: TypeAlias = Literal["lstm", "gru"]
States: TypeAlias = tuple[Tensor, ...]
"""Of n sequences, as torch's modules have them: h and c of an LSTM, h of a GRU, each of shape (layers, n, size)."""


class MemoryStates(NamedTuple):
    """
    As sb3-contrib's ``RNNStates``.

    :param pi: of the actor's memory
    :param vf: of the critic's; the actor's where it has none
    """

    pi: States
    vf: States


MODULES: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentMlpPolicy(MaskableMlpPolicy):
    """
    A policy with memory, for vectors.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param lr_schedule: of the critic's optimizer
    :param recurrent: "lstm" or "gru"
    :param lstm_hidden_size: numbers that each layer remembers, ≥ 1; of a GRU too
    :param n_lstm_layers: one on top of the other, ≥ 1
    :param shared_lstm: True to let the critic look at the actor's memory, which the trust-region step alone trains
    :param enable_critic_lstm: False for a critic that sees the present observation only
    :param kwargs: as :class:`~sb3_trpo_ext.trpo.masked_policies.MaskableMlpPolicy`
    :raises ValueError: for a value that is none of these, and for a memory that is shared and not
    """

    has_memory = True
    needs_masks = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        recurrent: Recurrence = "lstm",
        lstm_hidden_size: int = 64,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        **kwargs: Any,
    ):
        allowed = {
            "recurrent": (recurrent, one_of(*get_args(Recurrence)), '"lstm" or "gru"'),
            "lstm_hidden_size": (lstm_hidden_size, whole(1), "a whole number >= 1"),
            "n_lstm_layers": (n_lstm_layers, whole(1), "a whole number >= 1"),
            "shared_lstm": (shared_lstm, one_of(True, False), "True or False"),
            "enable_critic_lstm": (enable_critic_lstm, one_of(True, False), "True or False"),
        }
        for name, (value, holds, expected) in allowed.items():
            if not holds(value):
                raise ValueError(f"policy_kwargs=dict({name}=...) must be {expected}, got {value!r}.")
        if shared_lstm and not enable_critic_lstm:
            raise ValueError(
                "policy_kwargs=dict(shared_lstm=True) lets the critic look at the actor's memory, and "
                "enable_critic_lstm=False at none. Leave one of them out."
            )
        self.recurrent = recurrent
        self.lstm_hidden_size, self.n_lstm_layers = int(lstm_hidden_size), int(n_lstm_layers)
        self.shared_lstm, self.enable_critic_lstm = shared_lstm, enable_critic_lstm
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build_mlp_extractor(self) -> None:
        def memory() -> nn.LSTM | nn.GRU:
            return MODULES[self.recurrent](int(self.features_dim), self.lstm_hidden_size, self.n_lstm_layers)

        self.actor_memory = memory()
        self.critic_memory = memory() if self.enable_critic_lstm and not self.shared_lstm else None
        # In the place of a memory, so that the critic's network has as many inputs as the actor's.
        self.critic_layer = None if self.enable_critic_lstm else nn.Linear(self.features_dim, self.lstm_hidden_size)
        self.mlp_extractor = MlpExtractor(
            self.lstm_hidden_size, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("recurrent", "lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm")
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in names}

    # ---------------------------------------------------------------------------- memory
    def first_states(self, n: int) -> MemoryStates:
        """
        The states in which episodes begin: zeros.

        :param n: of episodes
        :return: of the actor's memory (``pi``) and of the critic's (``vf``; the actor's where it has none)
        """
        shape = (self.n_lstm_layers, n, self.lstm_hidden_size)
        like: Any = self.actor_memory.weight_hh_l0
        zeros = tuple(
            torch.zeros(shape, device=like.device, dtype=like.dtype) for _ in range(CELLS[self.recurrent].n_states)
        )
        return MemoryStates(zeros, zeros)  # a GRU has one, where the type says two

    def remember(
        self, memory: nn.LSTM | nn.GRU, features: Tensor, states: States, layout: Packed
    ) -> tuple[Tensor, States]:
        """
        What a memory hands on, with its graph.

        :param memory: of the actor or of the critic
        :param features: of n steps, one sequence after the other, shape (n, m)
        :param states: in which the sequences begin
        :param layout: of the sequences
        :return: shape (n, size), and the states in which the sequences end
        """
        cell, weights = CELLS[self.recurrent], weights_of(memory)
        x, states = features.to(weights[0].of_state.dtype), tuple(part.to(weights[0].of_state) for part in states)
        if len(layout.sizes) == 1:  # a step of each sequence: nothing has to be put in order
            first = [tuple(part[i] for part in states) for i in range(self.n_lstm_layers)]
            outputs, ends = run_layers(cell, weights, x, first, layout.sizes)
            return outputs, tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        first = [tuple(part[i][layout.sequences] for part in states) for i in range(self.n_lstm_layers)]
        outputs, ends = run_layers(cell, weights, x[layout.rows], first, layout.sizes)
        place = torch.argsort(layout.sequences)
        last = tuple(torch.stack([end[k][place] for end in ends]) for k in range(len(states)))
        return outputs[layout.inverse], last

    def actor_latent(self, obs: PyTorchObs, states: States, layout: Packed) -> tuple[Tensor, States]:
        """
        What the actor's last layer is given.

        :param obs: n observations, one sequence after the other
        :param states: of the actor's memory where the sequences begin
        :param layout: of the sequences
        :return: shape (n, …), and the states in which the sequences end
        """
        features = features_of(self, obs, self.pi_features_extractor)
        outputs, last = self.remember(self.actor_memory, features, states, layout)
        return self.mlp_extractor.forward_actor(outputs), last

    def critic_latent(self, obs: PyTorchObs, states: States, layout: Packed) -> tuple[Tensor, States]:
        """
        What the critic's last layer is given. Arguments and result as :meth:`actor_latent`.

        :param states: of the critic's memory, which is the actor's where ``shared_lstm``
        """
        if self.shared_lstm:
            with torch.no_grad():
                features = features_of(self, obs, self.pi_features_extractor)
                outputs, states = self.remember(self.actor_memory, features, states, layout)
            return self.mlp_extractor.forward_critic(outputs), states
        features = features_of(self, obs, self.vf_features_extractor)
        if self.critic_memory is None:
            assert self.critic_layer is not None
            return self.mlp_extractor.forward_critic(self.critic_layer(features.to(states[0].dtype))), states
        outputs, states = self.remember(self.critic_memory, features, states, layout)
        return self.mlp_extractor.forward_critic(outputs), states

    def _sequences(self, n: int, states: States | None, episode_starts: Tensor | None) -> tuple[States, Packed, Tensor]:
        """
        What follows from states and episode starts as sb3-contrib gives them: n steps are S sequences of equal length,
        one after the other, and each is cut where an episode starts.

        :return: the states in which the pieces begin, their layout, and of each sequence its last piece
        """
        if states is None:
            return self.first_states(n).pi, single_steps(n, self.device), torch.arange(n)
        size = states[0].shape[1]
        starts = torch.zeros(n) if episode_starts is None else episode_starts
        if size == n:
            is_new = starts.to(self.device).bool()[None, :, None]
            return tuple(torch.where(is_new, 0, part) for part in states), single_steps(n, self.device), torch.arange(n)
        starts = starts.reshape(size, -1).bool().cpu()
        lengths, first = pieces(starts, states)
        pieces_of_each = 1 + starts[:, 1:].sum(dim=1)
        return first, packed(lengths, self.device), pieces_of_each.cumsum(0) - 1

    # ---------------------------------------------------------------------------- SB3's methods
    def get_distribution(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: States | None = None,
        episode_starts: Tensor | None = None,
        action_masks: Any = None,
    ) -> tuple[Distribution, States]:
        """
        :param obs: n observations: S sequences of equal length, one after the other
        :param lstm_states: of the actor's memory, in which the sequences begin; None with n sequences of one step
        :param episode_starts: 1 where an episode begins, shape (n,)
        :param action_masks: of the n states; None allows everything
        :return: the distributions, and the states in which the sequences end
        """
        states, layout, last = self._sequences(count_of(obs), lstm_states, episode_starts)
        latent, ends = self.actor_latent(obs, states, layout)
        distribution = self._get_action_dist_from_latent(latent)
        if action_masks is not None:
            distribution = self._masked(distribution, action_masks)
        return distribution, tuple(end[:, last.to(end.device)] for end in ends)

    def predict_values(
        self, obs: PyTorchObs, lstm_states: States | None = None, episode_starts: Tensor | None = None
    ) -> Tensor:
        """
        As :meth:`get_distribution`.

        :param lstm_states: of the critic's memory
        :return: V, shape (n, 1)
        """
        return self._values(obs, lstm_states, episode_starts)[0]

    def _values(self, obs: PyTorchObs, states: States | None, episode_starts: Tensor | None) -> tuple[Tensor, States]:
        states, layout, last = self._sequences(count_of(obs), states, episode_starts)
        latent, ends = self.critic_latent(obs, states, layout)
        return self.value_net(latent), tuple(end[:, last.to(end.device)] for end in ends)

    def forward(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: MemoryStates | None = None,
        episode_starts: Tensor | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Tensor, Tensor, Tensor, MemoryStates]:
        """
        As :meth:`get_distribution`.

        :param lstm_states: of both memories
        :param deterministic: the most probable actions instead of random ones
        :return: actions, values, log-probabilities, and the states in which the sequences end
        """
        pi, vf = (None, None) if lstm_states is None else lstm_states
        distribution, new_pi = self.get_distribution(obs, pi, episode_starts, action_masks)
        values, new_vf = self._values(obs, vf, episode_starts)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob, shape = distribution.log_prob(actions), self.action_space.shape
        return actions.reshape((-1, *shape)), values, log_prob, MemoryStates(new_pi, new_vf)  # type: ignore[misc]

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        actions: Tensor,
        lstm_states: MemoryStates | None = None,
        episode_starts: Tensor | None = None,
        action_masks: Any = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        As :meth:`forward`.

        :param actions: taken in the n states
        :return: values, log-probabilities and entropies
        """
        pi, vf = (None, None) if lstm_states is None else lstm_states
        distribution, _ = self.get_distribution(obs, pi, episode_starts, action_masks)
        return self.predict_values(obs, vf, episode_starts), distribution.log_prob(actions), distribution.entropy()

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """
        As SB3's.

        :param observation: one, or n of them
        :param state: of the actor's memory, as the last call returned it; None in the beginning
        :param episode_start: whether an episode begins with this observation, shape (n,); None for no
        :param deterministic: the most probable actions instead of random ones
        :param action_masks: which actions are allowed; None looks for them as :class:`MaskableMlpPolicy` does, if the
            policy was trained with masks, and else allows everything
        :return: actions, and the state for the next call
        """
        self.set_training_mode(False)
        obs, is_vectorized = self.obs_to_tensor(observation)
        n = count_of(obs)
        rows = None
        if isinstance(self.action_space, masks.MASKABLE):
            rows = masks.of_question(self, observation, n, action_masks, self.needs_masks)
        starts = torch.zeros(n) if episode_start is None else torch.as_tensor(_starts(episode_start, n))
        first = self.first_states(n).pi
        now = first if state is None else self._checked(state, first)
        with torch.no_grad():
            distribution, after = self.get_distribution(obs, now, starts, rows)
            chosen = distribution.get_actions(deterministic=deterministic)
        shape: Any = self.action_space.shape
        actions = chosen.cpu().numpy().reshape((-1, *shape))
        if isinstance(self.action_space, spaces.Box):
            if self.squash_output:
                actions = self.unscale_action(actions)
            else:
                actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return actions if is_vectorized else actions.squeeze(axis=0), tuple(part.cpu().numpy() for part in after)

    def _checked(self, state: tuple[np.ndarray[Any, Any], ...], first: States) -> States:
        """A state that somebody gave, as tensors."""
        given = tuple(np.shape(part) for part in state)
        wanted = tuple(tuple(part.shape) for part in first)
        if not isinstance(state, (tuple, list)) or given != wanted:
            raise ValueError(
                f"predict(state=...) must be None, or as the last call returned it: a tuple of {len(wanted)} array(s) "
                f"of shape {wanted[0]} (layers, observations, size), got shapes {given}."
            )
        return tuple(torch.as_tensor(part, device=self.device) for part in state)


def _starts(episode_start: Any, n: int) -> np.ndarray[Any, Any]:
    """Whether episodes begin, as somebody gave it, for n observations."""
    starts = np.asarray(episode_start)
    if starts.size == n:
        return starts.reshape(n)
    if starts.ndim == 0:
        return np.full(n, bool(starts))
    raise ValueError(f"predict(episode_start=...) must have one value for each of {n} observations, got {starts.size}.")


class RecurrentCnnPolicy(RecurrentMlpPolicy):
    """A policy with memory, for images."""

    EXTRACTOR = NatureCNN
    SHARES_IT = False


class RecurrentMultiInputPolicy(RecurrentMlpPolicy):
    """A policy with memory, for dictionaries."""

    EXTRACTOR = CombinedExtractor
    SHARES_IT = False


def weights_of(memory: nn.LSTM | nn.GRU) -> list[Weights]:
    """Those of each layer of a memory."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [Weights(*(getattr(memory, f"{name}_l{i}") for name in names)) for i in range(memory.num_layers)]


def pieces(starts: Tensor, states: States) -> tuple[Tensor, States]:
    """
    How sequences of equal length fall into pieces of episodes.

    :param starts: whether an episode begins with a step, boolean, on the CPU, shape (S, T)
    :param states: of a memory, in which the S sequences begin
    :return: lengths of the pieces, one sequence after the other, and the states in which they begin: zeros where an
        episode does, else the sequence's own
    """
    begins = starts.clone()
    begins[:, 0] = True
    places = begins.flatten().nonzero().flatten()
    lengths = torch.diff(places, append=torch.tensor([starts.numel()]))
    device = states[0].device
    is_new, sequence = starts.flatten()[places].to(device), (places // starts.shape[1]).to(device)
    return lengths, tuple(torch.where(is_new[None, :, None], 0, part[:, sequence]) for part in states)
