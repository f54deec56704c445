"""Flat vectors and back, and the writing of parameters."""

import pytest
import torch
from torch import nn

from sb3_trpo_ext.kernels.vector import are_the_same, assign, flatten, unflatten

SHAPES = [(2, 3), (), (4,), (1, 2, 2)]


def tensors() -> list[torch.Tensor]:
    return [torch.randn(shape) for shape in SHAPES]


def test_the_same_tensors_are_the_objects_themselves_not_of_the_same_numbers():
    one, two = torch.zeros(2), torch.zeros(2)
    assert are_the_same([one, two], (one, two))
    assert are_the_same([], iter([]))
    assert not are_the_same([one, two], [one, one])
    assert not are_the_same([one, two], [two, one])
    assert not are_the_same([one], [one, two])


def test_flatten_keeps_the_order():
    parts = [torch.arange(6.0).view(2, 3), torch.tensor(6.0), torch.arange(7.0, 9.0)]
    assert flatten(parts).tolist() == list(range(9))


def test_flatten_reads_transposed_tensors_row_by_row():
    matrix = torch.arange(6.0).view(2, 3).T
    assert flatten([matrix]).tolist() == matrix.reshape(-1).tolist()


@pytest.mark.parametrize("count", [1, len(SHAPES)])
def test_flat_vector_is_a_detached_copy(count):
    parameters = [nn.Parameter(tensor) for tensor in tensors()[:count]]
    vector = flatten(parameters)
    before = vector.clone()
    assert not vector.requires_grad
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1)
    assert torch.equal(vector, before)


def test_unflatten_undoes_flatten_with_views():
    parts = tensors()
    vector = flatten(parts)
    pieces = unflatten(vector, parts)
    assert [piece.shape for piece in pieces] == [part.shape for part in parts]
    assert all(torch.equal(piece, part) for piece, part in zip(pieces, parts, strict=True))
    pieces[2].zero_()
    assert torch.equal(vector[7:11], torch.zeros(4))


@pytest.mark.parametrize("length", [0, 10, 16])
def test_a_vector_of_another_length_is_refused(length):
    with pytest.raises(RuntimeError):
        unflatten(torch.zeros(length), tensors())


def test_assign_writes_in_place_and_bit_for_bit():
    parameters = [nn.Parameter(tensor) for tensor in tensors()]
    addresses = [parameter.data_ptr() for parameter in parameters]
    odd = [0.0, -0.0, 1e-45, -1e-40, 3.4e38, torch.inf, -torch.inf, torch.nan, 0.1, 1 / 3, 2.0**-149]
    vector = torch.tensor((odd * 2)[:15])
    assign(parameters, vector)
    assert torch.equal(flatten(parameters).view(torch.int32), vector.view(torch.int32))
    assert [parameter.data_ptr() for parameter in parameters] == addresses
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in parameters)
    vector.zero_()
    assert float(parameters[0].detach().flatten()[4]) == pytest.approx(3.4e38)


def test_assign_keeps_the_type_of_the_parameters():
    parameters = [nn.Parameter(torch.zeros(3, dtype=torch.float64))]
    vector = torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64)
    assign(parameters, vector)
    assert torch.equal(parameters[0], vector)
