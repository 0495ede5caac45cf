"""scikit-learn around the regressor: pipelines, searches, meta-estimators, metadata routing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone, is_regressor
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor, StackingRegressor, VotingRegressor
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import RidgeCV
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils import estimator_html_repr

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.calibration import conformalize
from sklearn_hfl.metrics import coverage_scorer, crps_scorer, interval_scorer, nlpd_scorer
from tests.regression import SMALL

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1] + 0.3 * RNG.standard_normal(60)
FRAME = pd.DataFrame(X, columns=["depth", "width"])


def small(**params):
    return HFLRegressor(**{**SMALL, **params})


# ----------------------------------------------------------------- pipelines


def test_a_pipeline_passes_return_std_on():
    pipeline = make_pipeline(StandardScaler(), HFLRegressor(random_state=0)).fit(X, Y)
    mean, std = pipeline.predict(X, return_std=True)
    assert_array_equal(mean, pipeline.predict(X))
    regressor = HFLRegressor(random_state=0).fit(StandardScaler().fit_transform(X), Y)
    expected = regressor.predict(StandardScaler().fit_transform(X), return_std=True)
    assert_array_equal((mean, std), expected)


@pytest.mark.parametrize(
    "ask", [{"return_std": "epistemic"}, {"return_std": "aleatoric"}, {"return_cov": True}]
)
def test_a_pipeline_passes_the_other_questions_on(ask):
    pipeline = make_pipeline(StandardScaler(), small()).fit(X, Y)
    expected = pipeline[-1].predict(pipeline[:-1].transform(X), **ask)
    for ours, theirs in zip(pipeline.predict(X, **ask), expected, strict=True):
        assert_array_equal(ours, theirs)


def test_a_pipeline_passes_sample_weight_by_the_steps_name():
    weight = np.linspace(0, 2, 60)
    pipeline = make_pipeline(FunctionTransformer(), small())
    pipeline.fit(X, Y, hflregressor__sample_weight=weight)
    expected = small().fit(X, Y, sample_weight=weight)
    assert_array_equal(pipeline.predict(X), expected.predict(X))


def test_the_scaler_before_hardly_matters_as_the_regressor_scales_itself():
    scaled = make_pipeline(StandardScaler(), small(tol=0.0)).fit(X, Y)
    assert_allclose(scaled.predict(X), small(tol=0.0).fit(X, Y).predict(X), rtol=1e-6, atol=1e-8)


def test_set_output_of_a_transformer_before_reaches_the_regressor():
    pipeline = make_pipeline(StandardScaler(), small()).set_output(transform="pandas")
    mean, std = pipeline.fit(FRAME, Y).predict(FRAME, return_std=True)
    assert_array_equal(pipeline[-1].feature_names_in_, ["depth", "width"])
    assert type(mean) is type(std) is np.ndarray


def test_text_columns_go_through_an_encoder():
    frame = FRAME.assign(colour=np.where(X[:, 0] > 0, "red", "blue"))
    encoder = ColumnTransformer([("colour", OneHotEncoder(), ["colour"])], remainder="passthrough")
    pipeline = make_pipeline(encoder, small()).fit(frame, Y)
    assert pipeline.predict(frame, return_std=True)[1].shape == (60,)


@pytest.fixture(scope="module")
def recipe():
    """Imputed numbers and one-hot text, dense and sparse, before the regressor."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"depth": X[:, 0], "colour": rng.choice(["red", "blue", None], 60)})
    table.loc[::7, "depth"] = np.nan
    text = OneHotEncoder(handle_unknown="ignore")  # a missing colour is a colour
    return {
        kind: make_pipeline(
            ColumnTransformer(
                [("n", SimpleImputer(add_indicator=True), ["depth"]), ("c", text, ["colour"])],
                sparse_threshold=threshold,
            ),
            small(random_state=2),
        ).fit(table[:40], Y[:40])
        for kind, threshold in (("dense", 0.0), ("sparse", 1.0))
    }, table  # fmt: skip


ASKED = {
    "std": {"return_std": True},
    "epistemic": {"return_std": "epistemic"},
    "aleatoric": {"return_std": "aleatoric"},
    "covariance": {"return_cov": True},
    "interval": {"return_interval": 0.9},
    "profile": {"return_interval": 0.9, "interval_kind": "profile"},
    "conformal": {"return_interval": 0.8, "interval_kind": "conformal"},
    "quantiles": {"quantiles": [0.1, 0.5, 0.9]},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=list(ASKED))
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_every_keyword_of_predict_goes_through_imputation_and_encoding(recipe, kind, asked):
    pipelines, table = recipe
    pipe = conformalize(pipelines[kind], table[40:], Y[40:])
    rows = table[:15]  # some with a missing depth, some with a missing colour
    inputs = pipe[:-1].transform(rows)
    assert sparse.issparse(inputs) == (kind == "sparse")
    expected = pipe[-1].predict(inputs.toarray() if kind == "sparse" else inputs, **asked)
    for ours, theirs in zip(pipe.predict(rows, **asked), expected, strict=True):
        assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scorer", [nlpd_scorer, crps_scorer, interval_scorer, coverage_scorer])
def test_scorers_go_through_imputation_and_encoding(recipe, scorer):
    pipelines, table = recipe
    pipe = pipelines["sparse"]
    expected = scorer(pipe[-1], pipe[:-1].transform(table), Y)
    assert scorer(pipe, table, Y) == expected
    assert np.isfinite(cross_val_score(pipe, table, Y, scoring=scorer, cv=3)).all()


# -------------------------------------------------------------------- pandas


@pytest.mark.parametrize(
    ("table", "features"),
    [(X, ["0", "1"]), (FRAME, ["depth", "width"]), (FRAME[["width", "depth"]], ["width", "depth"])],
    ids=["array", "frame", "reversed"],
)
def test_prior_precisions_have_the_names_of_their_features(table, features):
    """The target depends on one feature: the other has the larger precision."""
    model = small(prior_precision="evidence").fit(table, X[:, 0])
    alpha = model.prior_precision_
    assert list(alpha)[:3] == [*(f"layer 0 feature {name}" for name in features), "layer 0 biases"]
    depth, width = (alpha[f"layer 0 feature {name}"] for name in sorted(features))
    assert width > 1.5 * depth
    model.fit(X, X[:, 0])
    assert list(model.prior_precision_)[:2] == ["layer 0 feature 0", "layer 0 feature 1"]


def test_names_of_features_are_kept_and_order_is_checked():
    model = small().fit(FRAME, Y)
    assert_array_equal(model.feature_names_in_, ["depth", "width"])
    assert model.feature_names_in_.dtype == object
    assert_array_equal(model.predict(FRAME), small().fit(X, Y).predict(X))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


def test_arrays_have_no_names():
    assert not hasattr(small().fit(X, Y), "feature_names_in_")


@pytest.mark.parametrize("ask", ["predict", "predict_uncertainty", "sample_y"])
def test_every_question_takes_a_frame(ask):
    getattr(small().fit(FRAME, pd.Series(Y, name="yield")), ask)(FRAME)


# ----------------------------------------------------------- model selection


def test_grid_search_over_the_prior_and_the_layers():
    grid = {"prior_precision": [1.0, 1e6], "hidden_layer_sizes": [(2,), (4,)]}
    search = GridSearchCV(small(tol=0.0), grid, cv=3).fit(X, Y)
    assert search.best_params_["prior_precision"] == 1.0
    mean, std = search.best_estimator_.predict(X, return_std=True)
    assert_array_equal(search.predict(X), mean)
    assert (std > 0).all()


def test_grid_search_over_a_step_of_a_pipeline():
    pipeline = Pipeline([("scale", StandardScaler()), ("hfl", small(tol=0.0))])
    search = GridSearchCV(pipeline, {"hfl__prior_precision": [1.0, 1e6]}, cv=3).fit(X, Y)
    assert search.best_params_ == {"hfl__prior_precision": 1.0}


def test_cross_val_predict_gives_each_row_from_a_model_without_it():
    predicted = cross_val_predict(small(), X, Y, cv=KFold(3))
    for train, test in KFold(3).split(X):
        assert_array_equal(predicted[test], small().fit(X[train], Y[train]).predict(X[test]))


def test_cross_validation_scores_each_fold():
    assert (cross_val_score(small(), X, Y, cv=3) > 0.5).all()


def test_permutation_importance_finds_the_feature_that_is_noise():
    inputs = np.column_stack([X, np.random.default_rng(1).uniform(-1, 1, 60)])
    importance = permutation_importance(small().fit(inputs, Y), inputs, Y, random_state=0)
    assert importance.importances_mean.argmin() == 2


# ----------------------------------------------------------- meta-estimators


META = {
    "bagging": BaggingRegressor(small(tol=0.0), n_estimators=3, random_state=0),
    "voting": VotingRegressor([("a", small()), ("b", small(hidden_layer_sizes=(3,)))]),
    "stacking": StackingRegressor([("a", small(tol=0.0))], final_estimator=RidgeCV(), cv=3),
    "transformed target": TransformedTargetRegressor(small(), transformer=StandardScaler()),
}


@pytest.mark.parametrize("meta", META.values(), ids=list(META))
def test_meta_estimators_take_it(meta):
    assert is_regressor(meta)
    assert clone(meta).fit(X, Y).score(X, Y) > 0.7


@pytest.mark.parametrize("meta", [MultiOutputRegressor, RegressorChain])
def test_meta_estimators_of_several_outputs_take_it(meta):
    targets = np.column_stack([Y, X[:, 0] * X[:, 1] + 0.1 * Y])
    model = meta(small()).fit(X, targets)
    assert model.predict(X).shape == (60, 2)
    assert_array_equal(model.predict(X)[:, 0], small().fit(X, Y).predict(X))


def test_a_transformed_targets_mean_is_transformed_back():
    model = TransformedTargetRegressor(small(tol=0.0), func=np.log, inverse_func=np.exp)
    mean = model.fit(X, np.exp(Y)).predict(X)
    assert_allclose(mean, np.exp(small(tol=0.0).fit(X, Y).predict(X)), rtol=1e-6)


# ---------------------------------------------------------- metadata routing


@pytest.fixture
def _routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("_routing")
def test_return_std_is_routed_through_a_pipeline():
    regressor = small().set_predict_request(return_std=True)
    pipeline = make_pipeline(StandardScaler(), regressor).fit(X, Y)
    mean, std = pipeline.predict(X, return_std="epistemic")
    expected = pipeline[-1].predict(pipeline[:-1].transform(X), return_std="epistemic")
    assert_array_equal((mean, std), expected)


@pytest.mark.usefixtures("_routing")
def test_sample_weight_is_routed_through_pipeline_and_cross_validation():
    weight = np.linspace(0, 2, 60)
    regressor = small().set_fit_request(sample_weight=True)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    result = cross_validate(
        make_pipeline(scaler, regressor),
        X,
        Y,
        cv=KFold(3),
        scoring=get_scorer("r2").set_score_request(sample_weight=True),
        params={"sample_weight": weight},
        return_estimator=True,
    )
    for fitted, (train, _) in zip(result["estimator"], KFold(3).split(X), strict=True):
        inputs = StandardScaler().fit_transform(X[train])
        expected = small().fit(inputs, Y[train], sample_weight=weight[train])
        assert_array_equal(fitted[-1].predict(inputs), expected.predict(inputs))


def test_requests_name_the_arguments_of_fit_predict_and_score():
    requests = small().get_metadata_routing()
    assert requests.fit.requests == {"sample_weight": None}
    keywords = ("return_std", "return_cov", "return_interval", "interval_kind", "quantiles")
    assert requests.predict.requests == dict.fromkeys(keywords)
    assert requests.score.requests == {"sample_weight": None}


# ------------------------------------------------------------------- display


@pytest.mark.parametrize("fit", [False, True], ids=["unfitted", "fitted"])
def test_html_representations_work(fit):
    pipeline = make_pipeline(StandardScaler(), small())
    if fit:
        pipeline.fit(FRAME, Y)
    for estimator in (pipeline, pipeline[-1]):
        html = estimator_html_repr(estimator)
        assert "HFLRegressor" in html
        assert html == estimator._repr_html_() or "sk-" in html


@pytest.mark.parametrize("estimator", [HFLRegressor, HFLClassifier])
def test_the_html_representation_links_to_the_documentation(estimator):
    page = f"generated/sklearn_hfl.{estimator.__name__}.html"
    html = estimator_html_repr(make_pipeline(StandardScaler(), estimator()))
    assert f'href="https://sklearn-hfl.github.io/sklearn-hfl/{page}"' in html

    class Mine(estimator):
        """Documented elsewhere."""

    assert "sklearn-hfl.github.io" not in estimator_html_repr(Mine())


def test_the_text_representation_shows_what_differs_from_the_defaults():
    assert repr(HFLRegressor(max_iter=7)) == "HFLRegressor(max_iter=7)"


def test_tags_say_what_it_is():
    tags = HFLRegressor().__sklearn_tags__()
    assert tags.estimator_type == "regressor"
    assert tags.target_tags.multi_output
    assert tags.target_tags.required
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
