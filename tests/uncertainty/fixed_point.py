"""Fixed point of MacKay's updates, with γ by dense algebra."""

from torch import Tensor
from torch.testing import assert_close

from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.uncertainty.exact import dense_ggn
from sklearn_hfl.uncertainty.precisions import PSEUDO_RESIDUAL, Hyperprior, squared_residuals
from tests import reference


def assert_fixed_point(lp: LogPosterior, weights: Tensor) -> None:
    gamma = reference.effective_parameters(lp, dense_ggn(lp, weights))
    prior, k = lp.prior, lp.y.shape[1]
    hyperprior = Hyperprior.at(lp, weights, gamma)
    alpha = hyperprior.update(prior.group_sum(gamma), prior.group_sum(weights**2))
    beta = (lp.sample_weight.sum() - gamma.sum() / k + 1) / (
        squared_residuals(lp, weights) + PSEUDO_RESIDUAL**2
    )
    assert_close(prior.group_precision, alpha, rtol=1e-3, atol=0)
    assert_close(lp.likelihood.noise_precision, beta, rtol=1e-3, atol=0)
