"""Standardizer: mean and scale of columns, whatever their offset and unit."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from sklearn_hfl import HFLRegressor
from sklearn_hfl._data import standardizer
from sklearn_hfl._data.standardizer import Standardizer

Z = np.random.default_rng(0).standard_normal((60, 2))
WEIGHT = np.random.default_rng(1).uniform(0.5, 2.0, 60)
# Offset and unit, at the edge of what double precision holds.
FAR = [
    (0.0, 1.0), (1e8, 1.0), (1e8, 1e-6), (1e12, 1e-2), (-1e9, 1e-5), (0.0, 1e-200), (0.0, 1e-320),
]  # fmt: skip


@pytest.mark.parametrize(("offset", "unit"), FAR)
def test_a_column_far_from_zero_or_of_small_unit_is_standardized(offset, unit, monkeypatch):
    monkeypatch.setattr(standardizer, "MAX_NUMBERS", 50)  # in several blocks
    values = offset + unit * Z
    found = Standardizer.from_data(values, WEIGHT)
    rounded = (values - offset) / unit
    mean = np.average(rounded, axis=0, weights=WEIGHT)
    std = np.sqrt(np.average((rounded - mean) ** 2, axis=0, weights=WEIGHT))
    assert_allclose(found.scale / unit, std, rtol=1e-3)
    standard = found.transform(values)
    assert np.abs(np.average(standard, axis=0, weights=WEIGHT)).max() < 0.05
    sparse = Standardizer.from_data(csr_array(values), WEIGHT)
    assert_allclose(sparse.scale, found.scale, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e10 + 0.1, -1e100])
def test_a_constant_column_keeps_its_unit_and_so_does_one_of_rounding_errors(value):
    values = np.full((60, 1), value)
    values[::2] = np.nextafter(value, np.inf) if value else 0.0
    found = Standardizer.from_data(values, WEIGHT)
    assert found.scale == 1.0
    assert_allclose(found.mean, value, rtol=1e-15)


@pytest.mark.parametrize(("offset", "unit"), FAR[2:])
def test_a_fit_is_the_same_in_such_units(offset, unit):
    y = Z @ [1.0, 0.5] + 0.3 * np.random.default_rng(2).standard_normal(60)
    params = {"hidden_layer_sizes": (), "random_state": 0}
    plain = HFLRegressor(**params).fit(Z, y)
    far = HFLRegressor(**params).fit(Z, offset + unit * y)
    mean, std = plain.predict(Z, return_std=True)
    far_mean, far_std = far.predict(Z, return_std=True)
    assert_allclose(far_std / unit, std, rtol=0.02)
    assert_allclose((far_mean - offset) / unit, mean, atol=0.05)
    moved = HFLRegressor(**params).fit(offset + unit * Z, y)
    assert_allclose(moved.predict(offset + unit * Z), mean, atol=0.05)
