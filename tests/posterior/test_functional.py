import pytest
import torch
from torch.func import jacrev
from torch.testing import assert_close

from sklearn_hfl.posterior.functional import Prediction, PredictionFunction, RowLoss, WeightedSum
from sklearn_hfl.posterior.likelihood import GaussianLikelihood
from sklearn_hfl.posterior.link import CENTRED, SOFTMAX
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.prior import GaussianPrior
from tests import reference
from tests.cases import F64, PROBLEMS, problem, randn


def prediction(network, X):
    return Prediction(network, X)


def probabilities(network, X):
    return Prediction(network, X, SOFTMAX)


def centred(network, X):
    return Prediction(network, X, CENTRED)


def contrasts(network, X):
    return WeightedSum(network, X, randn(3, len(X), seed=5))


def largest_and_spread(network, X):
    return PredictionFunction(
        network, X, lambda f: torch.stack([f.logsumexp(0).sum(), f.var(0).sum()])
    )


def product_of_ends(network, X):
    return PredictionFunction(network, X, lambda f: f[0, 0] * f[-1, -1])


def row_losses(network, X):
    groups = network.weight_groups()
    prior = GaussianPrior(torch.ones(len(groups), dtype=F64), groups)
    y = randn(len(X), network.n_outputs, seed=6)
    likelihood = GaussianLikelihood(torch.linspace(1, 2, network.n_outputs, dtype=F64))
    weight = torch.linspace(0.5, 1, len(X), dtype=F64)
    return RowLoss(LogPosterior(network, likelihood, prior, X, y, weight))


@pytest.fixture(
    params=[
        prediction,
        probabilities,
        centred,
        contrasts,
        largest_and_spread,
        product_of_ends,
        row_losses,
    ]
)
def make(request):
    return request.param


@pytest.fixture(params=PROBLEMS)
def case(request, make):
    """A functional and weights (3, P)."""
    case = problem(request.param)
    return make(case.log_posterior.network, case.queries), case.weights(3)


def test_value_has_a_column_a_functional(case):
    functional, weights = case
    assert functional.value(weights).shape == (3, functional.n_functionals)


def test_paired_picks_from_value(case):
    functional, weights = case
    index = torch.tensor([functional.n_functionals - 1, 0, functional.n_functionals // 2])
    expected = functional.value(weights).gather(1, index[:, None])[:, 0]
    assert_close(functional.paired(weights, index), expected)


def test_gradient_equals_automatic_differentiation(case):
    functional, weights = case
    expected = jacrev(lambda w: functional.value(w[None])[0])(weights[0]).mT
    gradient = functional.gradient(weights[0])
    assert_close(gradient, expected)
    assert not gradient.requires_grad


def test_gradient_equals_finite_differences(case):
    functional, weights = case
    expected = reference.finite_differences(lambda w: functional.value(w[None])[0], weights[0])
    assert_close(functional.gradient(weights[0]), expected.mT, rtol=1e-6, atol=1e-6)


def test_predictions_count_outputs_fastest():
    case = problem("two outputs")
    network, weights = case.log_posterior.network, case.weights(1)
    outputs = network.forward(weights, case.queries)
    assert case.prediction.value(weights)[0, 5] == outputs[0, 2, 1]


def test_weighted_sum_of_unit_rows_is_the_prediction():
    case = problem("two outputs")
    eye = torch.eye(len(case.queries)).to(case.queries)
    total = WeightedSum(case.log_posterior.network, case.queries, eye)
    weights = case.weights(2)
    assert_close(total.value(weights), case.prediction.value(weights))
    assert_close(total.gradient(weights[0]), case.prediction.gradient(weights[0]))


def test_prediction_function_of_the_mean_is_the_weighted_sum():
    case = problem("two outputs")
    network, X, weights = case.log_posterior.network, case.queries, case.weights(2)
    by_function = PredictionFunction(network, X, lambda f: f.mean(0))
    by_weights = WeightedSum(network, X, torch.full((1, len(X)), 1 / len(X)).to(X))
    assert_close(by_function.value(weights), by_weights.value(weights))
    assert_close(by_function.gradient(weights[0]), by_weights.gradient(weights[0]))


@pytest.mark.parametrize("name", PROBLEMS)
def test_row_losses_add_up_to_the_loss(name):
    case = problem(name)
    lp, weights = case.log_posterior, case.weights(2)
    total = RowLoss(lp).value(weights).sum(1) + lp.prior.energy(weights)
    assert_close(total, lp.value(weights), rtol=1e-10, atol=1e-10)
