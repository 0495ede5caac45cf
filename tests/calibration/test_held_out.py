"""Held-out data: calibration of an estimator and of a pipeline is the same."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.calibration import conformalize

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (90, 2))
Y = np.sin(3 * X[:, 0]) + 0.2 * RNG.standard_normal(90)
FIXED = {"hidden_layer_sizes": (3,), "n_estimators": 1, "prior_precision": 1.0, "random_state": 0}
MODELS = {
    "regressor": (HFLRegressor(noise_std=0.2, **FIXED), Y),
    "classifier": (HFLClassifier(**FIXED), Y > 0),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("steps", [[], [StandardScaler()], [StandardScaler(), StandardScaler()]])
def test_a_pipeline_is_calibrated_like_its_last_step(name, steps):
    model, y = MODELS[name]
    pipe = make_pipeline(*steps, model).fit(X[:50], y[:50])
    assert conformalize(pipe, X[50:], y[50:]) is pipe
    scores = pipe[-1].conformity_scores_
    inputs = pipe[:-1].transform(X) if steps else X
    expected = model.fit(inputs[:50], y[:50]).conformalize(inputs[50:], y[50:])
    assert_array_equal(scores, expected.conformity_scores_)
    assert conformalize(model, inputs[50:], y[50:]) is model


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (BayesianRidge(), "BayesianRidge"),
        (make_pipeline(StandardScaler(), BayesianRidge()), "BayesianRidge"),
        (GridSearchCV(HFLRegressor(), {}), "GridSearchCV.*best_estimator_"),
        (Pipeline([("end", "passthrough")]), "str"),
        (None, "NoneType"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(estimator, name):
    with pytest.raises(TypeError, match=f"HFLRegressor or HFLClassifier.* but got {name}"):
        conformalize(estimator, X, Y)
