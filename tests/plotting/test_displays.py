"""Displays: what is drawn, and what is refused."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom, norm
from sklearn.linear_model import BayesianRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_hfl import HFLClassifier, HFLRegressor
from sklearn_hfl.plotting import (
    CoverageDisplay,
    InfluenceDisplay,
    LeaveOneOutDisplay,
    PredictionIntervalDisplay,
    UncertaintyDecompositionDisplay,
)

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (40, 1))
Y = np.sin(3 * X[:, 0]) + 0.2 * RNG.standard_normal(40)
TWO = np.column_stack([Y, Y])
PARAMS = {
    "hidden_layer_sizes": (4,),
    "n_estimators": 1,
    "prior_precision": 1.0,
    "noise_std": 0.2,
    "random_state": 0,
}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(StandardScaler(), HFLRegressor(**PARAMS)).fit(X, Y)


@pytest.fixture(scope="module")
def ridge():
    return BayesianRidge().fit(X, Y)


def edges(band):
    """Lower and upper edge of a band, on its x in ascending order."""
    vertices = band.get_paths()[0].vertices
    x = np.unique(vertices[:, 0])
    low = [vertices[vertices[:, 0] == each, 1].min() for each in x]
    high = [vertices[vertices[:, 0] == each, 1].max() for each in x]
    return x, np.array(low), np.array(high)


def labels(display):
    return display.ax_.get_legend_handles_labels()[1]


# ------------------------------------------------------------ prediction intervals


def test_intervals_of_a_pipeline_are_drawn_in_both_parts(pipeline):
    display = PredictionIntervalDisplay.from_estimator(
        pipeline, X, Y, confidence_level=0.5, grid_resolution=30
    )
    grid = np.linspace(X.min() - 0.2 * np.ptp(X), X.max() + 0.2 * np.ptp(X), 30)
    for kind, band in (("total", display.total_band_), ("epistemic", display.epistemic_band_)):
        mean, std = pipeline.predict(grid[:, None], return_std=kind)
        low, high = norm.interval(0.5, mean, std)
        for drawn, expected in zip(edges(band), (grid, low, high), strict=True):
            assert_allclose(drawn, expected, rtol=1e-6, atol=1e-9)
    assert_allclose(display.line_.get_xydata(), np.column_stack([grid, mean]))
    assert_array_equal(display.points_.get_xydata(), np.column_stack([X[:, 0], Y]))
    assert labels(display) == [
        "mean", "data", "50 %, noise included", "50 %, epistemic only"
    ]  # fmt: skip
    assert display.figure_ is display.ax_.figure


def test_only_the_total_is_drawn_where_no_parts_are_known(ridge):
    display = PredictionIntervalDisplay.from_estimator(make_pipeline(ridge), X)
    assert display.epistemic_band_ is display.points_ is None
    assert labels(display) == ["mean", "90 %, noise included"]


def test_a_frame_keeps_its_name():
    frame = pd.DataFrame({"depth": X[:, 0]})
    display = PredictionIntervalDisplay.from_estimator(BayesianRidge().fit(frame, Y), frame, Y)
    assert display.ax_.get_xlabel() == "depth"


def test_intervals_are_drawn_on_given_axes_in_the_colour_of_the_line():
    _, ax = plt.subplots()
    display = PredictionIntervalDisplay.from_predictions(
        [2, 0, 1], [5, 3, 4], [1, 1, 1], ax=ax, c="red", lw=3
    )
    assert display.ax_ is ax
    assert_array_equal(display.line_.get_xydata(), [[0, 3], [1, 4], [2, 5]])
    assert display.line_.get_linewidth() == 3
    assert_allclose(display.total_band_.get_facecolor()[0, :3], [1, 0, 0])


def pixel(figure, x, y):
    """Colour of a pixel of a figure, at display coordinates from its lower left."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[::-1][round(y), round(x), :3].astype(int)


def test_swatches_have_the_colours_of_the_bands():
    """A band lies over another: the legend shows what is seen, for several models too."""
    _, ax = plt.subplots()
    models = {0.0: "red", 9.0: "blue"}
    for mean, color in models.items():
        PredictionIntervalDisplay.from_predictions(
            [0, 1], [mean] * 2, [2, 2], epistemic_std=[1, 1], confidence_level=0.68, ax=ax, c=color
        )
    figure, legend, swatch = ax.figure, ax.get_legend(), {}
    figure.canvas.draw()
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        box = handle.get_window_extent()
        centre = pixel(figure, (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
        swatch.setdefault(text.get_text(), []).append(centre)
    for model, mean in enumerate(models):
        for height, name in ((1.5, "noise included"), (0.5, "epistemic only")):
            seen = pixel(figure, *ax.transData.transform((0.1, mean + height)))
            assert_allclose(swatch[f"68 %, {name}"][model], seen, atol=2)
    # Lighter and darker: the two differ.
    assert np.abs(swatch["68 %, noise included"][0] - swatch["68 %, epistemic only"][0]).max() > 30


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"std": [-1, 1, 1]}, "Expected std ≥ 0"),
        ({"std": [1, 1]}, "Expected std of the same shape"),
        ({"mean": [[0, 0]] * 3}, "shows one output, but mean has 2 columns"),
        ({"epistemic_std": [np.nan] * 3}, "epistemic_std contains NaN"),
        ({"x_points": [1]}, "both x_points and y_points"),
        ({"x_points": [1], "y_points": [1, 2]}, "Expected y_points of the same shape"),
        ({"confidence_level": 1}, "PredictionIntervalDisplay: confidence_level"),
    ],
)
def test_bad_intervals_are_refused(keywords, message):
    arrays = {"x": [0, 1, 2], "mean": [0, 0, 0], "std": [1, 1, 1]}
    with pytest.raises(ValueError, match=message):
        PredictionIntervalDisplay.from_predictions(**{**arrays, **keywords})


def test_several_features_are_refused():
    with pytest.raises(ValueError, match=r"X of shape \(n, 1\), one feature, but got shape"):
        PredictionIntervalDisplay.from_estimator(BayesianRidge().fit(TWO, Y), TWO, Y)


@pytest.mark.parametrize("n", [1, 2.5, True])
def test_bad_resolutions_are_refused(ridge, n):
    with pytest.raises(ValueError, match="grid_resolution must be an integer ≥ 2"):
        PredictionIntervalDisplay.from_estimator(ridge, X, grid_resolution=n)


# ------------------------------------------------------------------------ coverage


def test_coverage_is_the_share_of_rows_inside(ridge):
    mean, std = ridge.predict(X, return_std=True)
    display = CoverageDisplay.from_estimator(make_pipeline(ridge), X, Y)
    for level, share in display.line_.get_xydata()[1:-1]:
        low, high = norm.interval(level, mean, std)
        assert_allclose(share, ((low <= Y) & (high >= Y)).mean())
    assert display.line_.get_label() == "BayesianRidge"


def test_the_band_of_chance_is_binomial():
    rng = np.random.default_rng(1)
    display = CoverageDisplay.from_predictions(rng.normal(size=50), np.zeros(50), np.ones(50))
    x, low, high = edges(display.band_)
    inside = (x > 0.02) & (x < 0.98)
    assert_allclose(50 * low[inside], binom.ppf(0.025, 50, x[inside]), atol=1e-9)
    assert_allclose(50 * high[inside], binom.ppf(0.975, 50, x[inside]), atol=1e-9)
    assert low.min() >= 0
    assert high.max() <= 1


def test_coverages_share_axes(ridge, pipeline):
    first = CoverageDisplay.from_estimator(ridge, X, Y)
    second = CoverageDisplay.from_estimator(pipeline, X, Y, ax=first.ax_, color="red")
    assert second.band_ is None
    assert labels(second) == [
        "calibrated", "95 % sampling band, n = 40", "BayesianRidge", "HFLRegressor"
    ]  # fmt: skip
    assert second.line_.get_color() == "red"
    sides = [text.get_text() for text in first.ax_.texts]
    assert sides == [
        "under-confident:\nintervals too wide", "over-confident:\nintervals too narrow"
    ]  # fmt: skip
    assert CoverageDisplay.from_estimator(ridge, X[:9], Y[:9], ax=first.ax_).band_ is not None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((TWO, TWO, 0 * TWO + 1), "CoverageDisplay shows one output"),
        ((Y, Y, 0 * Y), "Expected std > 0"),
        ((Y, Y[1:], Y), "Expected mean of the same shape"),
    ],
)
def test_bad_coverage_is_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        CoverageDisplay.from_predictions(*arrays)


# ------------------------------------------------------------------- decomposition


def test_parts_are_in_order_of_the_total(pipeline):
    display = UncertaintyDecompositionDisplay.from_estimator(pipeline, X, Y)
    mean, total = pipeline.predict(X, return_std=True)
    order = np.argsort(total, kind="stable")
    drawn = {
        "total": (display.total_, total[order]),
        "epistemic": (display.epistemic_, pipeline.predict(X, return_std="epistemic")[1][order]),
        "aleatoric": (display.aleatoric_, np.full(40, 0.2)),
        "error": (display.error_, np.abs(Y - mean)[order]),
    }
    for line, expected in drawn.values():
        assert_allclose(line.get_ydata(), expected, rtol=1e-6)
        assert_allclose(line.get_xdata(), (np.arange(40) + 0.5) / 40)


def test_the_binned_error_of_calibrated_stds_is_their_total():
    rng = np.random.default_rng(0)
    epistemic, aleatoric = rng.uniform(0, 2, 20_000), np.ones(20_000)
    y = np.hypot(epistemic, aleatoric) * rng.standard_normal(20_000)
    display = UncertaintyDecompositionDisplay.from_predictions(
        epistemic, aleatoric, y_true=y, mean=0 * y
    )
    x, error = display.binned_error_.get_data()
    assert_allclose(x, np.arange(0.05, 1, 0.1))
    assert_allclose(error, np.interp(x, *display.total_.get_data()), rtol=0.05)


@pytest.mark.parametrize(("n", "n_bins"), [(1, 1), (19, 1), (20, 2), (101, 10)])
def test_bins_have_ten_errors_or_more_and_keep_every_one(n, n_bins):
    error = RNG.uniform(size=n)
    display = UncertaintyDecompositionDisplay.from_predictions(
        error + 1, error, y_true=error, mean=0 * error, by=RNG.permutation(n)
    )
    binned = display.binned_error_.get_ydata()
    sizes = [len(rows) for rows in np.array_split(error, n_bins)]
    assert len(binned) == n_bins
    assert_allclose(np.sum(sizes * binned**2), np.sum(error**2))


@pytest.mark.parametrize("feature", [0, "depth"])
def test_parts_are_drawn_over_a_feature(feature):
    frame = pd.DataFrame({"depth": X[:, 0]})
    model = HFLRegressor(**PARAMS).fit(frame, Y)
    display = UncertaintyDecompositionDisplay.from_estimator(model, frame, feature=feature)
    assert_array_equal(display.total_.get_xdata(), np.sort(X[:, 0]))
    expected = model.predict(frame, return_std=True)[1][np.argsort(X[:, 0])]
    assert_allclose(display.total_.get_ydata(), expected, rtol=1e-6)
    assert display.ax_.get_xlabel() == "depth"
    assert display.error_ is display.binned_error_ is None
    assert display.total_.get_linestyle() == "None"


def test_without_parts_there_is_nothing_to_decompose(ridge):
    with pytest.raises(ValueError, match="BayesianRidge gives only the total"):
        UncertaintyDecompositionDisplay.from_estimator(make_pipeline(ridge), X)


@pytest.mark.parametrize("feature", [1, -1, True, "width"])
def test_features_that_are_none_are_refused(pipeline, feature):
    with pytest.raises(ValueError, match="UncertaintyDecompositionDisplay: "):
        UncertaintyDecompositionDisplay.from_estimator(pipeline, X, feature=feature)


@pytest.mark.parametrize(
    ("arrays", "keywords", "message"),
    [
        ((TWO**2, TWO**2), {}, "shows one output"),
        ((Y**2, -(Y**2)), {}, "Expected aleatoric_std ≥ 0"),
        ((Y**2, Y**2), {"y_true": Y}, "both y_true and mean"),
        ((Y**2, Y**2), {"by": Y[1:]}, "Expected by of the same shape"),
    ],
)
def test_bad_parts_are_refused(arrays, keywords, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyDecompositionDisplay.from_predictions(*arrays, **keywords)


# ------------------------------------------------------------------- all of them


DISPLAYS = {
    "interval": lambda: PredictionIntervalDisplay(X[:, 0], Y, Y**2),
    "coverage": lambda: CoverageDisplay(np.linspace(0, 1), np.linspace(0, 1), n_samples=9),
    "decomposition": lambda: UncertaintyDecompositionDisplay(X[:, 0], Y**2, Y**2),
}


@pytest.mark.parametrize("make", DISPLAYS.values(), ids=list(DISPLAYS))
def test_without_matplotlib_the_error_says_what_to_install(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install .sklearn_hfl\[plot\]"):
        make().plot()


@pytest.mark.parametrize("make", DISPLAYS.values(), ids=list(DISPLAYS))
def test_a_display_can_be_drawn_again(make):
    display = make()
    first = display.plot().ax_
    assert display.plot().ax_ is not first
    _, ax = plt.subplots()
    assert display.plot(ax) is display
    assert display.ax_ is ax


# --------------------------------------------------------- rows that are left out


def test_residuals_are_those_of_the_other_rows(pipeline):
    names = np.array([f"row {i}" for i in range(len(Y))])
    display = LeaveOneOutDisplay.from_estimator(pipeline, Y, names=names, n_named=2)
    left = pipeline[-1].loo_predict()
    residual = (Y - left.mean) / left.std
    x, y = display.points_.get_data()
    assert_allclose(x, left.leverage)
    assert_allclose(y, residual)
    order = np.argsort(-np.abs(left.leverage * residual))[:2]
    assert_array_equal(display.named_, order)
    assert [text.get_text() for text in display.texts_] == list(names[order])


def test_rows_without_weight_are_not_drawn():
    weight = np.arange(40) % 4 > 0
    model = HFLRegressor(**PARAMS).fit(X, Y, sample_weight=weight)
    display = LeaveOneOutDisplay.from_estimator(model, Y, n_named=3)
    assert len(display.leverage) == 30
    shown = {int(text.get_text()) for text in display.texts_}
    assert shown == set(np.flatnonzero(weight)[display.named_])


def test_residuals_of_classes_are_refused():
    model = HFLClassifier(hidden_layer_sizes=(), prior_precision=1.0).fit(X, Y > 0)
    with pytest.raises(TypeError, match="is a classifier"):
        LeaveOneOutDisplay.from_estimator(model, Y)


def test_displays_of_rows_need_an_estimator_that_knows_them(ridge, pipeline):
    with pytest.raises(TypeError, match="that has loo_predict"):
        LeaveOneOutDisplay.from_estimator(ridge, Y)
    with pytest.raises(TypeError, match="that has influence"):
        InfluenceDisplay.from_estimator(ridge, X[:1])
    for y in (Y[:20], np.append(Y, 0.0)):
        with pytest.raises(ValueError, match="targets of fit, which had 40 rows"):
            LeaveOneOutDisplay.from_estimator(pipeline, y)
    with pytest.raises(ValueError, match="names must have shape"):
        LeaveOneOutDisplay.from_estimator(pipeline, Y, names=["a"])
    with pytest.raises(ValueError, match="one sample, but X has 2"):
        InfluenceDisplay.from_estimator(pipeline, X[:2])


def test_bars_are_the_rows_of_the_largest_influence(pipeline):
    names = np.array([f"row {i}" for i in range(len(Y))])
    display = InfluenceDisplay.from_estimator(pipeline, X[7:8], names=names, n_rows=4)
    change = pipeline[-1].influence(pipeline[:-1].transform(X[7:8]))[0]
    order = np.argsort(-np.abs(change))[:4]
    assert_allclose([bar.get_width() for bar in display.bars_], change[order])
    ticks = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert ticks == list(names[order])


def test_a_fit_of_few_rows_has_as_many_bars():
    weight = np.arange(9) > 2
    model = HFLRegressor(**{**PARAMS, "hidden_layer_sizes": ()})
    model.fit(X[:9], Y[:9], sample_weight=weight)
    display = InfluenceDisplay.from_estimator(model, X[:1], names=list("abcdefghi"))
    assert sorted(display.names) == list("defghi")
    assert len(LeaveOneOutDisplay.from_estimator(model, Y[:9], n_named=0).texts_) == 0


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"n_rows": 41}, "from 1 to the number of training rows, 40, or None, but got 41"),
        ({"n_rows": 0}, "but got 0"),
        ({"n_rows": True}, "but got True"),
        ({"names": ["a"] * 39}, r"names must have shape \(40,\), one a row, but got \(39,\)"),
        ({"names": ["a"] * 41}, "names must have shape"),
        ({"output": 2}, "a position in classes_, an integer from 0 to 1, but got 2"),
        ({"output": -1}, "but got -1"),
        ({"output": "yes"}, "but got 'yes'"),
    ],
)
def test_bad_bars_are_refused(keywords, message):
    labels = np.where(Y > 0, "yes", "no")
    model = HFLClassifier(hidden_layer_sizes=(), prior_precision=1.0).fit(X, labels)
    with pytest.raises(ValueError, match=message):
        InfluenceDisplay.from_estimator(model, X[:1], **keywords)


def test_a_single_output_is_the_first(pipeline):
    InfluenceDisplay.from_estimator(pipeline, X[:1], output=0)
    with pytest.raises(ValueError, match="a position, an integer from 0 to 0, but got 1"):
        InfluenceDisplay.from_estimator(pipeline, X[:1], output=1)


@pytest.mark.parametrize("n_named", [-1, 2.5, None, "3"])
def test_bad_numbers_of_names_are_refused(n_named):
    with pytest.raises(ValueError, match="n_named must be an integer ≥ 0"):
        LeaveOneOutDisplay.from_predictions([0.0], [1.0], [1.0], [0.1], n_named=n_named)


def test_bars_of_one_output_or_of_the_predicted_class():
    two = HFLRegressor(**PARAMS).fit(X, TWO)
    with pytest.raises(ValueError, match="2 outputs: pass the number"):
        InfluenceDisplay.from_estimator(two, X[:1])
    second = InfluenceDisplay.from_estimator(two, X[:1], output=1, n_rows=3)
    assert_allclose(second.change, two.influence(X[:1], top=3)[1][0, :, 1])
    classes = HFLClassifier(hidden_layer_sizes=(), prior_precision=1.0).fit(X, Y > 0)
    display = InfluenceDisplay.from_estimator(classes, X[:1], n_rows=3)
    best = classes.predict(X[:1])[0]
    assert f"P(y = {best})" in display.ax_.get_xlabel()
    column = list(classes.classes_).index(best)
    assert_allclose(display.change, classes.influence(X[:1], top=3)[1][0, :, column])
