from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale
from torch.testing import assert_close

from sklearn_hfl.optim import dual, krylov
from sklearn_hfl.optim.dual import inverse_curvature
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.training import no_callback
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.initialization import initial_weights, scaled_precision
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.alternation import Alternation, Fit
from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.noise import with_varying_noise
from sklearn_hfl.uncertainty.precisions import (
    FEATURE_STRENGTH,
    MIN_NOISE_STD,
    PSEUDO_RESIDUAL,
    STRENGTH,
    EvidenceOptions,
    Hyperprior,
    noise_precision,
    updated_at,
)
from sklearn_hfl.uncertainty.search import maximize_evidence
from tests import reference
from tests.cases import (
    F64,
    LINEAR,
    generator,
    map_estimate,
    problem,
    randn,
    take_subsamples,
)
from tests.uncertainty.fixed_point import assert_fixed_point

TRAINER = NewtonCG(1000, tol=0.0, n_iter_no_change=10)
UNWEIGHTED = [name for name in LINEAR if "weighted" not in name]

# γ and Σθ² of two groups; Σ w r² of two targets, γ and the rows.
GAMMA, SQUARES = torch.tensor([3.0, 0.5], dtype=F64), torch.tensor([2.0, 4.0], dtype=F64)
RESIDUALS, TOTAL_GAMMA = torch.tensor([0.5, 3.0], dtype=F64), torch.tensor(4.0, dtype=F64)
ROWS = torch.tensor(20.0, dtype=F64)


def hyperprior(strength, centre=(1.0, 2.0)):
    return Hyperprior(torch.full((2,), strength, dtype=F64), torch.tensor(centre, dtype=F64))


def test_without_strength_the_update_is_mackays():
    assert_close(hyperprior(0.0).update(GAMMA, SQUARES), GAMMA / SQUARES)


@pytest.mark.parametrize("strength", [0.005, 1.0])
def test_groups_without_evidence_stay_at_the_centre(strength):
    found = hyperprior(strength)
    assert_close(found.update(torch.zeros(2), torch.zeros(2)), found.centre)


def test_the_prior_precision_is_the_mode():
    """Of ½ γ log α − ½ α Σθ², MacKay's view of the evidence, and the hyperprior."""
    found = hyperprior(0.7)
    best = found.update(GAMMA, SQUARES)

    def density(alpha):
        evidence = 0.5 * (GAMMA * alpha.log() - alpha * SQUARES).sum()
        return float(evidence) + found.log_density(alpha)

    assert all(density(best) > density(factor * best) for factor in (0.9, 1.1))


def test_features_share_a_centre_and_other_groups_have_theirs_at_one():
    lp = problem("one layer").log_posterior
    n = lp.n_weights
    weights, gamma = randn(n), torch.rand(n, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = Hyperprior.at(lp, weights, gamma)
    features = lp.prior.groups.of_kind("feature")
    assert 0 < features.sum() < len(features)
    of_features = features[lp.prior.groups.labels]
    shared = gamma[of_features].sum() / weights[of_features].square().sum()
    assert_close(found.centre[features], shared.expand(int(features.sum())), rtol=0.05, atol=0)
    assert (found.strength[features] == FEATURE_STRENGTH).all()
    assert (found.centre[~features] == 1).all()
    assert (found.strength[~features] == STRENGTH).all()


def test_the_noise_precision_is_the_mode():
    """Of (N − γ)/2 log β − ½ β Σ(y − f)², and the hyperprior, which is one more row."""
    best = noise_precision(RESIDUALS, TOTAL_GAMMA, ROWS)

    def density(beta):
        return (ROWS - TOTAL_GAMMA + 1) * beta.log() - beta * (RESIDUALS + PSEUDO_RESIDUAL**2)

    for factor in (0.99, 1.01):
        assert (density(best) > density(factor * best)).all()


@pytest.mark.parametrize("share", [1.0, 3.0])
def test_a_twentieth_of_the_rows_is_left_for_the_noise(share):
    found = noise_precision(RESIDUALS, share * ROWS, ROWS)
    assert_close(found, noise_precision(RESIDUALS, 0.95 * ROWS, ROWS))


@pytest.mark.parametrize("unit", [1.0, 50.0])
def test_many_rows_without_residuals_end_at_the_lower_limit_of_the_noise(unit):
    found = noise_precision(torch.zeros(2, dtype=F64), TOTAL_GAMMA, 1e6 * ROWS, unit)
    assert_close(found.rsqrt(), torch.full((2,), MIN_NOISE_STD * unit, dtype=F64))


def test_the_noise_has_the_unit_of_the_targets():
    unit = torch.tensor([3.0, 0.1], dtype=F64)
    found = noise_precision(unit**2 * RESIDUALS, TOTAL_GAMMA, ROWS, unit)
    assert_close(found.rsqrt(), unit * noise_precision(RESIDUALS, TOTAL_GAMMA, ROWS).rsqrt())


def maximize(name, prior=True, noise=True, **changes):
    options = EvidenceOptions(prior, noise, rtol=changes.pop("rtol", 1e-6))
    case, trainer = problem(name), replace(TRAINER, **changes)
    fit, curve, _ = maximize_evidence(
        case.log_posterior, case.weights(), trainer, options, generator(0), no_callback
    )
    return fit.log_posterior, fit.weights, curve


@pytest.mark.parametrize("name", LINEAR)
def test_precisions_of_a_linear_network_are_a_fixed_point(name):
    lp, weights, *_ = maximize(name)
    assert_close(weights, reference.BayesianLinearRegression(lp).mean, rtol=1e-3, atol=1e-4)
    assert_fixed_point(lp, weights)


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_a_round_knows_the_marginal_density_wherever_its_weights_are(name):
    case, options = problem(name), EvidenceOptions(True, True)
    lp = case.log_posterior
    alternation = Alternation(replace(TRAINER, max_iter=1), options, generator(0), no_callback)
    found = alternation.rounds(Fit(lp, case.weights()), 1)
    gamma = reference.effective_parameters(lp, dense_ggn(lp, found.weights))
    beta = lp.likelihood.noise_precision
    expected = reference.BayesianLinearRegression(lp).log_evidence
    assert found.log_evidence == pytest.approx(expected, rel=1e-6)
    expected += Hyperprior.at(lp, found.weights, gamma).log_density(lp.prior.group_precision)
    expected += 0.5 * (beta.log() - PSEUDO_RESIDUAL**2 * beta).sum().item()
    assert found.score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["two layers", "two outputs"])
def test_an_update_by_a_rough_subspace_is_nearly_that_by_the_matrix(monkeypatch, name):
    case, options = problem(name), EvidenceOptions(True, True)
    lp, weights = case.log_posterior, case.weights()
    by_matrix, _ = updated_at(lp, weights, options, generator(0))
    monkeypatch.setattr(dual, "MAX_RESIDUALS", 0)
    monkeypatch.setattr(krylov, "MAX_MATRIX_WEIGHTS", 0)
    rough = inverse_curvature(GaussNewton(lp, weights), generator(0))
    assert rough.gram.dtype == torch.float32
    by_rough, _ = updated_at(lp, weights, options, generator(0))
    ours, theirs = by_rough.prior.group_precision, by_matrix.prior.group_precision
    assert_close(ours, theirs, rtol=krylov.ROUGH_TRACE_RTOL, atol=0.0)
    ours, theirs = by_rough.likelihood.noise_precision, by_matrix.likelihood.noise_precision
    assert_close(ours, theirs, rtol=krylov.ROUGH_TRACE_RTOL, atol=0.0)


def test_an_update_of_very_many_rows_takes_the_parameters_of_a_sample(monkeypatch):
    """The noise comes from all residuals, and γ, a small share of them, from a sample."""
    lp = LINEAR["linear"].problem(seed=0, n_rows=1500).log_posterior
    weights, options = 0.1 * randn(lp.n_weights), EvidenceOptions(False, True)
    by_all, _ = updated_at(lp, weights, options, generator(0))
    take_subsamples(monkeypatch, 300)
    rows = []
    formed = GaussNewton.matrix
    monkeypatch.setattr(
        GaussNewton, "matrix", lambda self: rows.append(self.log_posterior.n_rows) or formed(self)
    )
    by_sample, _ = updated_at(lp, weights, options, generator(0))
    assert rows == [300]
    assert_close(
        by_sample.likelihood.noise_precision, by_all.likelihood.noise_precision, rtol=1e-4, atol=0.0
    )


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_the_marginal_density_has_its_maximum_there(name):
    lp, weights, *_ = maximize(name)
    gamma = reference.effective_parameters(lp, dense_ggn(lp, weights))
    hyperprior = Hyperprior.at(lp, weights, gamma)

    def penalized(factor_alpha, factor_beta):
        alpha = factor_alpha * lp.prior.group_precision
        beta = factor_beta * lp.likelihood.noise_precision
        prior, likelihood = lp.prior.with_precision(alpha), lp.likelihood.with_precision(beta)
        density = hyperprior.log_density(alpha)
        density += 0.5 * (beta.log() - PSEUDO_RESIDUAL**2 * beta).sum()
        moved = reference.BayesianLinearRegression(replace(lp, prior=prior, likelihood=likelihood))
        return moved.log_evidence + density.item()

    best = penalized(1.0, 1.0)
    assert all(best > penalized(a, b) for a, b in [(1.2, 1), (0.8, 1), (1, 1.2), (1, 0.8)])


@pytest.mark.parametrize("name", ["one layer", "module"])
def test_the_evidence_is_larger_than_at_the_first_precisions(name):
    lp, weights, *_ = maximize(name, rtol=0.02)
    first, start = problem(name).log_posterior, map_estimate(name).weights
    before = reference.log_evidence(first, start, dense_ggn(first, start))
    assert reference.log_evidence(lp, weights, dense_ggn(lp, weights)) > before


@pytest.mark.parametrize(("prior", "noise"), [(True, False), (False, True), (False, False)])
def test_what_is_not_learned_stays(prior, noise):
    lp, *_ = maximize("linear, two outputs", prior, noise)
    before = problem("linear, two outputs").log_posterior
    kept = torch.equal(lp.prior.group_precision, before.prior.group_precision)
    assert kept is not prior
    kept = torch.equal(lp.likelihood.noise_precision, before.likelihood.noise_precision)
    assert kept is not noise


@pytest.mark.parametrize("max_iter", [1, 10, 17])
def test_the_trainer_bounds_the_steps_of_all_rounds(max_iter):
    _, _, curve, *_ = maximize("two layers", max_iter=max_iter, rtol=1e-12)
    assert len(curve) == max_iter


@pytest.mark.parametrize("name", [*LINEAR, "one layer", "module"])
def test_a_row_of_weight_two_counts_as_two_rows(name):
    case = problem(name)
    lp = case.log_posterior
    twice = replace(lp, sample_weight=2 * lp.sample_weight)
    repeated = lp.select(torch.arange(len(lp.X)).repeat(2))
    options, trainer = EvidenceOptions(prior=True, noise=True), replace(TRAINER, max_iter=120)
    first, second = (
        maximize_evidence(p, case.weights(), trainer, options, generator(0))[0].log_posterior
        for p in (twice, repeated)
    )
    assert_close(first.prior.group_precision, second.prior.group_precision, rtol=1e-4, atol=0)
    assert_close(
        first.likelihood.noise_precision, second.likelihood.noise_precision, rtol=1e-4, atol=0
    )


def test_a_learned_prior_forgets_the_given_one():
    case = problem("one layer")
    lp = case.log_posterior
    other = replace(lp, prior=lp.prior.with_precision(100 * lp.prior.group_precision))
    options, trainer = EvidenceOptions(prior=True, noise=True), replace(TRAINER, max_iter=30)
    first, second = (
        maximize_evidence(p, case.weights(), trainer, options, generator(0))[0].log_posterior
        for p in (lp, other)
    )
    assert_close(first.prior.group_precision, second.prior.group_precision, rtol=0, atol=0)


def maximize_noisy(n_rows=80, **changes):
    """A noise that grows with x, with and without; a linear network."""
    x = torch.linspace(-1, 1, n_rows, dtype=F64)[:, None]
    noise = torch.exp(changes.pop("slope") * x) * randn(n_rows, 1)
    network = MLP((1, 2), n_noise=1)
    groups = network.weight_groups()
    lp = LogPosterior(
        network,
        HeteroscedasticLikelihood(torch.ones(1, dtype=F64)),
        GaussianPrior(torch.ones(len(groups), dtype=F64), groups),
        x,
        x + noise,
        torch.ones(n_rows, dtype=F64),
    )
    options = EvidenceOptions(prior=True, noise=True, rtol=1e-6)
    start = 0.1 * randn(lp.n_weights)
    trainer = replace(TRAINER, **changes)
    fit, curve, _ = maximize_evidence(lp, start, trainer, options, generator(0))
    return fit.log_posterior, fit.weights, curve


@pytest.mark.parametrize("slope", [0.0, 1.5])
def test_log_noise_is_shrunk_where_the_noise_is_constant(slope):
    lp, weights, *_ = maximize_noisy(slope=slope)
    alpha = dict(zip(lp.prior.groups.names, lp.prior.group_precision.tolist(), strict=True))
    learned = weights[1].item()  # how log noise grows with x
    # Its std is 1 / sqrt(2 Σ x²) = 0.14 in 80 rows.
    assert learned == pytest.approx(slope, abs=0.05 if slope == 0 else 0.4)
    name = "layer 0 weights of log noise"
    assert alpha[name] > 50 if slope == 0 else alpha[name] < 2


@pytest.mark.parametrize("max_iter", [1, 40, 300])
def test_the_trainer_bounds_the_steps_of_both_stages(max_iter):
    lp, _, curve, *_ = maximize_noisy(slope=1.0, max_iter=max_iter)
    assert len(curve) <= max_iter
    assert lp.likelihood.constant is (max_iter == 1)


def test_the_level_of_the_noise_stays_while_log_noise_varies(monkeypatch):
    levels = []

    def recorded(*arguments):
        freed = with_varying_noise(*arguments)
        levels.append(freed.likelihood.noise_precision)
        return freed

    monkeypatch.setattr("sklearn_hfl.uncertainty.search.with_varying_noise", recorded)
    lp, *_ = maximize_noisy(n_rows=20, slope=1.0, max_iter=120)
    assert lp.likelihood.noise_precision in levels


@pytest.mark.parametrize("name", ["linear", "one layer", "two layers"])
def test_targets_without_structure_give_a_constant(name):
    case = problem(name)
    start = replace(case.log_posterior, y=torch.ones_like(case.log_posterior.y))
    options = EvidenceOptions(prior=True, noise=True)
    fit, curve, _ = maximize_evidence(start, case.weights(), TRAINER, options, generator(0))
    lp, weights = fit.log_posterior, fit.weights
    shorter = replace(TRAINER, max_iter=len(curve) - 2)
    _, cut, _ = maximize_evidence(start, case.weights(), shorter, options, generator(0))
    assert len(cut) == len(curve) - 2
    outputs = lp.network.forward(weights[None], case.queries)[0]
    assert_close(outputs, torch.ones_like(outputs), rtol=0, atol=0.05)


def test_rounds_that_lower_the_evidence_are_taken_back(monkeypatch):
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X)[:200], scale(y)[:200, None]
    network = MLP((10, 50, 1))
    groups = network.weight_groups()
    lp = LogPosterior(
        network,
        GaussianLikelihood(torch.ones(1, dtype=F64)),
        GaussianPrior(torch.ones(len(groups), dtype=F64), groups),
        torch.tensor(X),
        torch.tensor(y),
        torch.ones(200, dtype=F64),
    )
    start = initial_weights(network, generator(0))
    options = EvidenceOptions(True, True)

    def evidence():
        alternation = Alternation(TRAINER, options, generator(0), no_callback)
        wide = lp.prior.with_precision(scaled_precision(network, 1.0).to(F64))
        begun = replace(
            lp, prior=wide, likelihood=GaussianLikelihood(torch.full((1,), 10.0, dtype=F64))
        )
        found = alternation.at_map(alternation.rounds(Fit(begun, start), 40))
        return reference.log_evidence(
            found.log_posterior, found.weights, dense_ggn(found.log_posterior, found.weights)
        )

    kept = evidence()
    monkeypatch.setattr("sklearn_hfl.uncertainty.alternation.EVIDENCE_TOL", torch.inf)
    assert kept > evidence() + 10
