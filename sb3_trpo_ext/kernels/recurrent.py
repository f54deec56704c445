"""
Recurrent layers over sequences of unequal length, and their first derivatives by hand.

Sequences are packed: the first steps of all of them come first, then the second steps, and so on, the longest sequence
first within each. Nothing is padded, and a step of time is one matrix product for all sequences that have it. What does
not depend on the state, all products with inputs and all gradients of weights, is one product for all steps together.
No recurrent kernel of a library is asked, so that none has to have a second derivative.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from sb3_trpo_ext.kernels.chain import ChainLinearization
from sb3_trpo_ext.kernels.layers import Layer
from sb3_trpo_ext.kernels.vector import count, unflatten

State: TypeAlias = tuple[Tensor, ...]
"""Of S sequences, the output h first: (h, c) for LSTM, (h,) for GRU, each of shape (S, k)."""


class Packed(NamedTuple):
    """
    Where the N steps of S sequences are, which stand one after the other before they are packed.

    :param rows: the place before of each packed step, shape (N,)
    :param inverse: the packed place of each step, shape (N,)
    :param previous: where each packed step's state comes from: i below S is the initial state of the i-th longest
        sequence, S + j is the j-th packed step, shape (N,)
    :param sequences: the longest first, shape (S,)
    :param sizes: how many sequences have a first step, a second, …
    """

    rows: Tensor
    inverse: Tensor
    previous: Tensor
    sequences: Tensor
    sizes: list[int]


def packed(lengths: Tensor, device: torch.device | str = "cpu") -> Packed:
    """
    :param lengths: of S sequences, ≥ 1, on the CPU
    :param device: of what is to be packed
    """
    ordered, sequences = torch.sort(lengths, descending=True, stable=True)
    starts = (lengths.cumsum(0) - lengths)[sequences]
    times = torch.arange(int(ordered[0]))
    has_it = ordered[None, :] > times[:, None]  # (T, S)
    rows = (starts[None, :] + times[:, None])[has_it]
    sizes = has_it.sum(dim=1)
    offsets = sizes.cumsum(0) - sizes
    places = offsets[:, None] + torch.arange(len(lengths))[None, :]  # packed
    before = torch.cat([torch.arange(len(lengths))[None, :], len(lengths) + places[:-1]])
    inverse = torch.empty_like(rows)
    inverse[rows] = torch.arange(len(rows))
    rows, inverse, before, sequences = (part.to(device) for part in (rows, inverse, before[has_it], sequences))
    return Packed(rows, inverse, before, sequences, sizes.tolist())


def single_steps(n: int, device: torch.device | str = "cpu") -> Packed:
    """As :func:`packed`, of n sequences of one step, where everything stays in its place."""
    places = torch.arange(n, device=device)
    return Packed(places, places, places, places, [n])


class Weights(NamedTuple):
    """
    Of a layer with g gates, k outputs and m inputs, as torch's modules have them.

    :param of_inputs: W, shape (g k, m)
    :param of_state: U, shape (g k, k)
    :param bias_of_inputs: b, shape (g k,)
    :param bias_of_state: c, shape (g k,)
    """

    of_inputs: Tensor
    of_state: Tensor
    bias_of_inputs: Tensor
    bias_of_state: Tensor


class Cell(ABC):
    """What a recurrent layer does in a step of time."""

    n_states: int
    """How many tensors its state has."""

    @abstractmethod
    def step(self, from_inputs: Tensor, state: State, weights: Weights) -> State:
        """
        :param from_inputs: W x + b, shape (s, g k)
        :param state: before
        :return: after
        """

    @abstractmethod
    def kept(self, weights: Weights, x: Tensor, before: State, after: State, sizes: list[int]) -> "KeptPass":
        """
        :param weights: detached
        :param x: inputs of all packed steps, shape (N, m)
        :param before: their states before, each of shape (N, k)
        :param after: and after
        :param sizes: as :class:`Packed`
        """


def run(cell: Cell, weights: Weights, x: Tensor, state: State, sizes: list[int]) -> tuple[list[State], State]:
    """
    A layer over packed sequences, with its graph.

    :param cell: which
    :param weights: its own
    :param x: packed inputs, shape (N, m)
    :param state: where the sequences begin, in the packed order
    :param sizes: as :class:`Packed`
    :return: the states after each step of time, and those in which the sequences end
    """
    from_inputs = torch.addmm(weights.bias_of_inputs, x, weights.of_inputs.t())
    states: list[State] = []
    ends: list[State] = []  # of those that are over, the shortest first
    for part in torch.split(from_inputs, sizes):
        if len(part) < len(state[0]):
            ends.append(tuple(one[len(part) :] for one in state))
            state = tuple(one[: len(part)] for one in state)
        state = cell.step(part, state, weights)
        states.append(state)
    ends.append(state)
    return states, tuple(torch.cat(parts) for parts in zip(*reversed(ends), strict=True))


class KeptPass(ABC):
    """
    One pass of a layer over packed sequences, with what its products need. Products are valid until the weights change.

    :param weights: detached
    :param x: packed inputs, shape (N, m)
    :param h: states before each step, shape (N, k)
    :param sizes: as :class:`Packed`
    """

    def __init__(self, weights: Weights, x: Tensor, h: Tensor, sizes: list[int]):
        self.weights, self.x, self.h, self.sizes = weights, x, h, sizes

    @abstractmethod
    def push(self, dx: Tensor | None, change: Weights) -> Tensor:
        """
        How the outputs change with inputs and weights, to first order; initial states do not.

        :param dx: shape (N, m); None stands for 0
        :param change: of the weights
        :return: shape (N, k)
        """

    @abstractmethod
    def pull(self, cotangent: Tensor, gradient: Weights) -> Tensor:
        """
        :param cotangent: at the outputs, shape (N, k)
        :param gradient: written to
        :return: the cotangent at W x + b, shape (N, g k)
        """

    def pull_to_inputs(self, at_gates: Tensor) -> Tensor:
        """
        :param at_gates: as :meth:`pull` returns it
        :return: the cotangent at the inputs, shape (N, m)
        """
        return at_gates @ self.weights.of_inputs

    def _from_inputs(self, dx: Tensor | None, change: Weights) -> Tensor:
        """The change of W x + b."""
        result = torch.addmm(change.bias_of_inputs, self.x, change.of_inputs.t())
        return result if dx is None else result.addmm_(dx, self.weights.of_inputs.t())

    def _from_state(self, change: Weights) -> Tensor:
        """The change of U h + c by U and c alone."""
        return torch.addmm(change.bias_of_state, self.h, change.of_state.t())

    def _write(self, gradient: Weights, at_inputs: Tensor, at_state: Tensor) -> None:
        """:param at_inputs: the cotangent at W x + b; ``at_state``: that at U h + c"""
        torch.mm(at_inputs.t(), self.x, out=gradient.of_inputs)
        torch.sum(at_inputs, dim=0, out=gradient.bias_of_inputs)
        torch.mm(at_state.t(), self.h, out=gradient.of_state)
        torch.sum(at_state, dim=0, out=gradient.bias_of_state)


class LSTM(Cell):
    """
    Hochreiter and Schmidhuber 1997, with a forget gate, as ``torch.nn.LSTM``: with z = W x + b + U h + c cut into four,

        i = σ(z₁)   f = σ(z₂)   g = tanh(z₃)   o = σ(z₄),     c' = f c + i g,   h' = o tanh(c').
    """

    n_states = 2

    def step(self, from_inputs: Tensor, state: State, weights: Weights) -> State:
        h, c = state
        z = from_inputs + torch.addmm(weights.bias_of_state, h, weights.of_state.t())
        i, f, g, o = z.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def kept(self, weights: Weights, x: Tensor, before: State, after: State, sizes: list[int]) -> "KeptPass":
        return KeptLSTM(weights, x, before, after, sizes)


class KeptLSTM(KeptPass):
    """
    Of :class:`LSTM`. With z's change δz,

        δc' = f δc + A₁ δz₁ + A₂ δz₂ + A₃ δz₃,   δh' = B δc' + A₄ δz₄.
    """

    def __init__(self, weights: Weights, x: Tensor, before: State, after: State, sizes: list[int]):
        super().__init__(weights, x, before[0], sizes)
        z = torch.addmm(weights.bias_of_inputs + weights.bias_of_state, x, weights.of_inputs.t())
        i, f, g, o = z.addmm_(self.h, weights.of_state.t()).chunk(4, dim=1)
        i, self.f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        t = after[1].tanh()
        self.A = torch.stack([g * i * (1 - i), before[1] * self.f * (1 - self.f), i * (1 - g * g), t * o * (1 - o)], 1)
        self.B = o * (1 - t * t)

    def push(self, dx: Tensor | None, change: Weights) -> Tensor:
        base = (self._from_inputs(dx, change) + self._from_state(change)).view_as(self.A).mul_(self.A)
        out, U = torch.empty_like(self.B), self.weights.of_state.t()
        dh = dc = out.new_zeros(self.sizes[0], out.shape[1])
        parts = zip(*(torch.split(part, self.sizes) for part in (base, self.A, self.B, self.f, out)), strict=True)
        for base_t, A, B, f, out_t in parts:
            n = len(f)
            terms = torch.addcmul(base_t, A, torch.mm(dh[:n], U).view_as(A))
            dc = torch.addcmul(terms[:, :3].sum(dim=1), f, dc[:n])
            dh = torch.addcmul(terms[:, 3], B, dc, out=out_t)
        return out

    def pull(self, cotangent: Tensor, gradient: Weights) -> Tensor:
        at_gates, U = torch.empty_like(self.A), self.weights.of_state
        dh = dc = cotangent.new_zeros(0, cotangent.shape[1])  # of what follows
        parts = [torch.split(part, self.sizes) for part in (cotangent, self.A, self.B, self.f, at_gates)]
        for dy, A, B, f, dz in zip(*(reversed(part) for part in parts), strict=True):
            total = dy.clone()
            total[: len(dh)] += dh
            at_c = B * total
            at_c[: len(dc)] += dc
            torch.mul(A[:, :3], at_c[:, None], out=dz[:, :3])
            torch.mul(A[:, 3], total, out=dz[:, 3])
            dh, dc = dz.flatten(1) @ U, f * at_c
        at_gates = at_gates.flatten(1)
        self._write(gradient, at_gates, at_gates)
        return at_gates


class GRU(Cell):
    """
    Cho et al. 2014, arXiv:1406.1078, as ``torch.nn.GRU``: with a = W x + b and u = U h + c each cut into three,

        r = σ(a₁ + u₁)   z = σ(a₂ + u₂)   n = tanh(a₃ + r u₃),     h' = (1 − z) n + z h.
    """

    n_states = 1

    def step(self, from_inputs: Tensor, state: State, weights: Weights) -> State:
        (h,) = state
        a, u = from_inputs.chunk(3, dim=1), torch.addmm(weights.bias_of_state, h, weights.of_state.t()).chunk(3, dim=1)
        r, z = (a[0] + u[0]).sigmoid(), (a[1] + u[1]).sigmoid()
        n = (a[2] + r * u[2]).tanh()
        return (n + z * (h - n),)

    def kept(self, weights: Weights, x: Tensor, before: State, after: State, sizes: list[int]) -> "KeptPass":
        return KeptGRU(weights, x, before, sizes)


class KeptGRU(KeptPass):
    """Of :class:`GRU`. With a's and u's changes, δh' = Σ A δa + Σ B δu + z δh, sums over the three."""

    def __init__(self, weights: Weights, x: Tensor, before: State, sizes: list[int]):
        super().__init__(weights, x, before[0], sizes)
        a = torch.addmm(weights.bias_of_inputs, x, weights.of_inputs.t()).chunk(3, dim=1)
        u = torch.addmm(weights.bias_of_state, self.h, weights.of_state.t()).chunk(3, dim=1)
        r, self.z = (a[0] + u[0]).sigmoid(), (a[1] + u[1]).sigmoid()
        n = (a[2] + r * u[2]).tanh()
        of_n = (1 - self.z) * (1 - n * n)
        both = [of_n * u[2] * r * (1 - r), (self.h - n) * self.z * (1 - self.z)]
        self.A, self.B = torch.stack([*both, of_n], dim=1), torch.stack([*both, of_n * r], dim=1)

    def push(self, dx: Tensor | None, change: Weights) -> Tensor:
        base = self._from_inputs(dx, change).view_as(self.A).mul_(self.A)
        base = base.addcmul_(self._from_state(change).view_as(self.B), self.B).sum(dim=1)
        out, U = torch.empty_like(base), self.weights.of_state.t()
        dh = out.new_zeros(self.sizes[0], out.shape[1])
        parts = zip(*(torch.split(part, self.sizes) for part in (base, self.B, self.z, out)), strict=True)
        for base_t, B, z, out_t in parts:
            dh = dh[: len(z)]
            through_gates = torch.mm(dh, U).view_as(B).mul_(B).sum(dim=1)
            dh = torch.addcmul(through_gates.add_(base_t), z, dh, out=out_t)
        return out

    def pull(self, cotangent: Tensor, gradient: Weights) -> Tensor:
        at_inputs, at_state, U = torch.empty_like(self.A), torch.empty_like(self.B), self.weights.of_state
        dh = cotangent.new_zeros(0, cotangent.shape[1])  # of what follows
        parts = [torch.split(part, self.sizes) for part in (cotangent, self.B, self.z, at_state)]
        totals = []
        for dy, B, z, du in zip(*(reversed(part) for part in parts), strict=True):
            total = dy.clone()
            total[: len(dh)] += dh
            torch.mul(B, total[:, None], out=du)
            dh = torch.addmm(z * total, du.flatten(1), U)
            totals.append(total)
        torch.mul(self.A, torch.cat(totals[::-1])[:, None], out=at_inputs)
        self._write(gradient, at_inputs.flatten(1), at_state.flatten(1))
        return at_inputs.flatten(1)


CELLS: dict[str, Cell] = {"lstm": LSTM(), "gru": GRU()}


def run_layers(
    cell: Cell, layers: Sequence[Weights], x: Tensor, states: Sequence[State], sizes: list[int]
) -> tuple[Tensor, list[State]]:
    """
    Layers one after the other.

    :param cell: of all
    :param layers: the weights of each
    :param x: packed inputs, shape (N, m)
    :param states: where the sequences begin, of each layer, in the packed order
    :param sizes: as :class:`Packed`
    :return: the last one's outputs, shape (N, k), and of each layer the states in which the sequences end
    """
    ends = []
    for weights, state in zip(layers, states, strict=True):
        steps, end = run(cell, weights, x, state, sizes)
        x = torch.cat([step[0] for step in steps])
        ends.append(end)
    return x, ends


class RecurrentLinearization:
    """
    Linearization of recurrent layers, and of a chain that follows them. θ is the weights of the layers and then those
    of the chain, in order.

    :param cell: of the layers
    :param memory: the weights of each
    :param chain: at least one layer
    :param x: packed inputs, shape (N, m), constant in θ
    :param states: where the sequences begin, of each layer, in the packed order; constant in θ
    :param layout: of the sequences
    """

    value: tuple[Tensor, ...]
    """The chain's outputs, in the order of the steps before they were packed."""

    @torch.no_grad()
    def __init__(
        self,
        cell: Cell,
        memory: Sequence[Weights],
        chain: Sequence[Layer],
        x: Tensor,
        states: Sequence[State],
        layout: Packed,
    ):
        self._layout = layout
        self._passes: list[KeptPass] = []
        for weights, state in zip(memory, states, strict=True):
            own = Weights(*(tensor.detach() for tensor in weights))
            steps, _ = run(cell, own, x, state, layout.sizes)
            after = tuple(torch.cat(parts) for parts in zip(*steps, strict=True))
            before = tuple(torch.cat([first, part])[layout.previous] for first, part in zip(state, after, strict=True))
            self._passes.append(cell.kept(own, x, before, after, layout.sizes))
            x = after[0]
        self._chain = ChainLinearization(chain, x)
        self._parameters = [tensor for one in self._passes for tensor in one.weights]
        self._size = count(self._parameters)
        self.value = (self._chain.value[0][layout.inverse],)

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        pieces, change = unflatten(tangent[: self._size], self._parameters), None
        for i, one in enumerate(self._passes):
            change = one.push(change, Weights(*pieces[4 * i : 4 * i + 4]))
        (packed_change,) = self._chain.jvp(tangent[self._size :], change)
        return (packed_change[self._layout.inverse],)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        of_chain, flowing = self._chain.vjp_and_pull(cotangent[0][self._layout.rows])
        of_memory = of_chain.new_empty(self._size)
        pieces = unflatten(of_memory, self._parameters)
        for i, one in reversed(list(enumerate(self._passes))):
            at_gates = one.pull(flowing, Weights(*pieces[4 * i : 4 * i + 4]))
            if i > 0:
                flowing = one.pull_to_inputs(at_gates)
        return torch.cat([of_memory, of_chain])
