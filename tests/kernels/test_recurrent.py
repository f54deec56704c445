"""Recurrent layers beside torch's own, one sequence at a time, and their products beside autograd, in float64."""

import pytest
import torch
from torch import nn

from sb3_trpo_ext.kernels.layers import layers_of
from sb3_trpo_ext.kernels.recurrent import CELLS, RecurrentLinearization, Weights, packed, run_layers, single_steps
from tests.cases import each_device

MODULES = {"lstm": nn.LSTM, "gru": nn.GRU}
LENGTHS = [3, 1, 6, 6, 2]
each_cell = pytest.mark.parametrize("kind", CELLS)
each_depth = pytest.mark.parametrize("depth", [1, 2])


class Case:
    """A module of torch's, a head, and sequences that begin in states of their own."""

    def __init__(self, kind, depth, lengths=LENGTHS, dtype=torch.float64, device="cpu", inputs=4, size=3):
        torch.manual_seed(0)
        self.kind, self.cell, self.lengths = kind, CELLS[kind], lengths
        self.module = MODULES[kind](inputs, size, depth).to(device, dtype)
        self.head = nn.Sequential(nn.Linear(size, 5), nn.Tanh(), nn.Linear(5, 2)).to(device, dtype)
        self.x = torch.randn(sum(lengths), inputs, dtype=dtype, device=device)
        n_states = self.cell.n_states
        self.first = [torch.randn(depth, len(lengths), size, dtype=dtype, device=device) for _ in range(n_states)]
        self.layout = packed(torch.tensor(lengths), device)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.weights = [Weights(*(getattr(self.module, f"{name}_l{i}") for name in names)) for i in range(depth)]
        self.states = [tuple(part[i][self.layout.sequences] for part in self.first) for i in range(depth)]

    def by_torch(self):
        """Outputs step by step and states in the end, one sequence after the other."""
        outputs, ends, start = [], [], 0
        for i, length in enumerate(self.lengths):
            state = tuple(part[:, i : i + 1].contiguous() for part in self.first)
            with torch.backends.cudnn.flags(enabled=False):
                output, end = self.module(self.x[start : start + length, None], state if len(state) > 1 else state[0])
            outputs.append(output[:, 0])
            ends.append(end if isinstance(end, tuple) else (end,))
            start += length
        return torch.cat(outputs), [torch.cat(parts, dim=1) for parts in zip(*ends, strict=True)]

    def linearization(self):
        layers = layers_of(list(self.head))
        x = self.x[self.layout.rows]
        return RecurrentLinearization(self.cell, self.weights, layers, x, self.states, self.layout)

    @property
    def parameters(self):
        return [*self.module.parameters(), *self.head.parameters()]


def test_packing_puts_every_step_in_its_place():
    layout = packed(torch.tensor([2, 1, 3]))
    assert layout.sequences.tolist() == [2, 0, 1] and layout.sizes == [3, 2, 1]
    assert layout.rows.tolist() == [3, 0, 2, 4, 1, 5]  # first steps, second steps, the third
    assert layout.rows[layout.inverse].tolist() == list(range(6))
    assert layout.previous.tolist() == [0, 1, 2, 3, 4, 6]  # three initial states, then packed steps


def test_sequences_of_one_step_are_in_their_places():
    for one, other in zip(single_steps(3), packed(torch.ones(3, dtype=torch.int64)), strict=True):
        assert one == other if isinstance(one, list) else torch.equal(one, other)


@each_cell
@each_depth
@pytest.mark.parametrize("lengths", [LENGTHS, [1], [4], [1, 1, 1], [2, 2]], ids=str)
def test_outputs_and_last_states_are_torchs(kind, depth, lengths):
    case = Case(kind, depth, lengths)
    packed_x = case.x[case.layout.rows]
    outputs, ends = run_layers(case.cell, case.weights, packed_x, case.states, case.layout.sizes)
    expected, last = case.by_torch()
    torch.testing.assert_close(outputs[case.layout.inverse], expected)
    for i, end in enumerate(ends):
        for part, whole in zip(end, last, strict=True):
            torch.testing.assert_close(part, whole[i][case.layout.sequences])


@each_cell
@each_depth
@pytest.mark.parametrize("lengths", [LENGTHS, [1], [4], [1, 1, 1]], ids=str)
@each_device
def test_products_are_autograds(kind, depth, lengths, device):
    case = Case(kind, depth, lengths, device=device)
    found = case.linearization()
    value = case.head(case.by_torch()[0])
    torch.testing.assert_close(found.value[0], value)
    cotangent = torch.randn_like(value).requires_grad_()
    pulled = torch.autograd.grad(value, case.parameters, cotangent, create_graph=True)
    flat = torch.cat([part.flatten() for part in pulled])
    torch.testing.assert_close(found.vjp([cotangent.detach()]), flat.detach())
    tangent = torch.randn_like(flat)
    (pushed,) = torch.autograd.grad(flat, cotangent, tangent)
    torch.testing.assert_close(found.jvp(tangent)[0], pushed)


@each_cell
def test_products_are_repeatable_and_leave_cotangents_alone(kind):
    case = Case(kind, 2)
    found = case.linearization()
    cotangent = torch.randn_like(found.value[0])
    kept = cotangent.clone()
    first = found.vjp([cotangent])
    tangent = torch.randn_like(first)
    pushed = found.jvp(tangent)[0].clone()
    assert torch.equal(found.vjp([cotangent]), first) and torch.equal(cotangent, kept)
    assert torch.equal(found.jvp(tangent)[0], pushed)


@each_cell
def test_one_step_at_a_time_is_the_whole_sequence(kind):
    """As when actions are chosen: each step begins where the last one ended."""
    case = Case(kind, 2, [5, 5, 5])
    expected, last = case.by_torch()
    states = [tuple(part[i] for part in case.first) for i in range(2)]
    for t in range(5):
        x = case.x.view(3, 5, -1)[:, t]
        outputs, states = run_layers(case.cell, case.weights, x, states, [3])
        torch.testing.assert_close(outputs, expected.view(3, 5, -1)[:, t])
    torch.testing.assert_close(states[1][0], last[0][1])


@each_cell
def test_in_single_precision_it_is_torchs_too(kind):
    case = Case(kind, 2, dtype=torch.float32)
    torch.testing.assert_close(case.linearization().value[0], case.head(case.by_torch()[0]), rtol=1e-5, atol=1e-6)
