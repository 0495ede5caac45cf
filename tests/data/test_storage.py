"""Storage: tensors become arrays and come back, in whatever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor

from sklearn_hfl._data.storage import StoredTensor, packed, restored, stored, unpacked
from sklearn_hfl.exceptions import HFLWarning


@dataclass(frozen=True)
class Leaf:
    values: Tensor
    name: str

    @cached_property
    def total(self):
        return self.values.sum()


def nested(values):
    return {"a": [Leaf(values, "x"), (values, None, 1.5)], "b": np.arange(3)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.bool])
def test_what_was_stored_comes_back(dtype):
    values = torch.tensor([[0, 1], [1, 0]], dtype=dtype)
    back = restored(stored(nested(values)))
    leaf, (other, nothing, number) = back["a"]
    assert isinstance(leaf, Leaf)
    assert leaf.values.dtype == dtype
    assert torch.equal(leaf.values, values)
    assert torch.equal(other, values)
    assert (leaf.name, nothing, number) == ("x", None, 1.5)
    assert back["b"].tolist() == [0, 1, 2]


def test_a_fit_of_a_gpu_is_loaded_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state = packed({"device": "cuda", "weights": torch.ones(2)})
    state["weights"] = StoredTensor(state["weights"].array, "cuda:0")
    with pytest.warns(HFLWarning, match="fitted with device='cuda', which this machine does not"):
        back = unpacked(state)
    assert back["device"] == "cpu"
    assert back["weights"].tolist() == [1.0, 1.0]


def test_no_tensor_is_left():
    leaf, (other, _, _) = stored(nested(torch.ones(2)))["a"]
    assert isinstance(leaf.values, StoredTensor)
    assert isinstance(other, StoredTensor)


def test_what_shares_a_tensor_shares_it_again():
    leaf, (other, _, _) = restored(stored(nested(torch.ones(2))))["a"]
    assert leaf.values is other


def test_what_a_dataclass_has_cached_is_left_out():
    leaf = Leaf(torch.ones(2), "x")
    assert leaf.total == 2
    assert set(vars(stored(leaf))) == {"values", "name"}


def test_read_only_arrays_are_copied():
    array = np.ones(3)
    array.flags.writeable = False
    values = restored(StoredTensor(array, "cpu"))
    values[0] = 5
    assert array[0] == 1
