from dataclasses import replace

import pytest
import torch

from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.likelihood import (
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticLikelihood,
)
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import Alternation, Fit
from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.search import maximize_evidence
from tests import reference
from tests.cases import F64, generator, randn

TRAINER = Trainer("newton-cg", 1000, tol=0.01, n_iter_no_change=10)
X = randn(80, 6)
LATENT = X @ randn(6, 3, seed=1)
NOISY = LATENT + 3 * randn(80, 3, seed=2)
CURVED = X[:, :1].square() - 0.5
UNIT = torch.ones(1, dtype=F64)


def one_hot(latent):
    return torch.nn.functional.one_hot(latent.argmax(1), latent.shape[1]).to(F64)


# What is learned from noisy rows of a linear truth: likelihood, targets, outputs, log noises.
LINEAR = {
    "gaussian": (GaussianLikelihood(UNIT), NOISY[:, :1] / NOISY[:, :1].std(), 1, 0),
    "log noise": (HeteroscedasticLikelihood(UNIT), NOISY[:, :1] / NOISY[:, :1].std(), 2, 1),
    "two classes": (CategoricalLikelihood(), (NOISY[:, :1] > 0).to(F64), 1, 0),
    "three classes": (CategoricalLikelihood(), one_hot(NOISY), 3, 0),
}


def log_posterior(likelihood, y, network):
    labels, names = network.group_labels()
    prior = GaussianPrior(torch.ones(len(names), dtype=F64), labels, names)
    return LogPosterior(network, likelihood, prior, X, y, torch.ones(len(X), dtype=F64))


def maximize(likelihood, y, hidden, n_outputs, n_noise=0, seed=0):
    network = MLP((X.shape[1], *hidden, n_outputs), n_noise=n_noise)
    noise = not isinstance(likelihood, CategoricalLikelihood)
    starts = ((10.0, 1.0), (1.0, 0.3)) if noise else ((0.1, 1.0), (10.0, 1.0))
    options = EvidenceOptions(True, noise, 0.0 if noise else 0.01, starts)
    lp, start = log_posterior(likelihood, y, network), initial_weights(network, generator(seed))
    found, weights, _ = maximize_evidence(lp, start, TRAINER, options, generator(seed))
    found = replace(found, spread=None)
    return found, reference.log_evidence(found, weights, dense_ggn(found, weights))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LINEAR)
def test_a_network_is_not_less_probable_than_its_linear_model(name, seed):
    likelihood, y, *outputs = LINEAR[name]
    _, linear = maximize(likelihood, y, (), *outputs)
    _, network = maximize(likelihood, y, (15,), *outputs, seed=seed)
    assert network > linear - 0.1


@pytest.mark.parametrize("name", ["gaussian", "two classes"])
def test_noise_alone_leaves_the_linear_model(name):
    likelihood, y, *outputs = LINEAR[name]
    shuffled = y[torch.randperm(len(y), generator=generator(3))]
    found, _ = maximize(likelihood, shuffled, (15,), *outputs)
    assert found.network.layer_sizes == (6, 1)


@pytest.mark.parametrize(
    ("likelihood", "y"),
    [(GaussianLikelihood(UNIT), CURVED / CURVED.std()), (CategoricalLikelihood(), CURVED > 0)],
    ids=["gaussian", "two classes"],
)
def test_what_is_not_linear_keeps_its_network(likelihood, y):
    _, linear = maximize(likelihood, y.to(F64), (), 1)
    found, network = maximize(likelihood, y.to(F64), (15,), 1)
    assert found.network.layer_sizes == (6, 15, 1)
    assert network > linear + 5


def test_rounds_that_fall_behind_end():
    likelihood, y, *_ = LINEAR["gaussian"]
    lp = log_posterior(likelihood, y, MLP((6, 15, 1)))
    start = Fit(lp, initial_weights(lp.network, generator(0)))

    def spent(least):
        options = EvidenceOptions(True, True, rtol=0.0)
        alternation = Alternation(TRAINER, options, generator(0), lambda loss: None)
        fit = alternation.rounds(start, 6, least)
        assert fit.ended or least == -torch.inf
        return alternation.spent

    assert spent(1e6) < spent(-torch.inf)


def test_a_fit_knows_its_evidence_at_the_map():
    likelihood, y, *_ = LINEAR["three classes"]
    lp = log_posterior(likelihood, y, MLP((6, 5, 3)))
    options = EvidenceOptions(True, False)
    alternation = Alternation(TRAINER, options, generator(0), lambda loss: None)
    fit = alternation.at_map(alternation.rounds(Fit(lp, 0.3 * randn(lp.n_weights)), 2))
    expected = reference.log_evidence(
        fit.log_posterior, fit.weights, dense_ggn(fit.log_posterior, fit.weights)
    )
    assert fit.log_evidence == pytest.approx(expected, abs=0.1)
    assert alternation.spent == len(fit.curve)
