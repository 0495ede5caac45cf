import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sklearn_hfl.posterior.packing import Packing
from tests.cases import randn

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(SHAPES, st.integers(0, 99))
def test_pack_and_unpack_are_inverse(shapes, seed):
    packing = Packing(tuple(shapes))
    weights = randn(packing.n_weights, seed=seed)
    tensors = packing.unpack(weights)
    assert [tuple(t.shape) for t in tensors] == shapes
    assert_close(packing.pack(tensors), weights, rtol=0, atol=0)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(SHAPES, st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_unpack_keeps_leading_axes(shapes, lead):
    packing = Packing(tuple(shapes))
    weights = randn(*lead, packing.n_weights)
    rows = [packing.unpack(row) for row in weights.flatten(0, -2)]
    for batched, single in zip(packing.unpack(weights), zip(*rows, strict=True), strict=True):
        assert_close(batched, torch.stack(single).reshape(batched.shape), rtol=0, atol=0)
