"""Problems that the tests share: data, networks and precisions, as tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Generator, Tensor

from sklearn_hfl.optim import preconditioner, subsample
from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.newton_cg import NewtonCG
from sklearn_hfl.optim.subspace import Subspace
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.likelihood import GaussianLikelihood, HeteroscedasticLikelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import MLP, ModuleNetwork, Network
from sklearn_hfl.posterior.prior import GaussianPrior

F64 = torch.float64


def take_subsamples(monkeypatch, residuals):
    """Take twice so many residuals for very many, of which so many say enough."""
    monkeypatch.setattr(subsample, "MIN_RESIDUALS", residuals)
    monkeypatch.setattr(subsample, "RESIDUALS_PER_WEIGHT", 0)
    monkeypatch.setattr(preconditioner, "MAX_EXACT_WORK", 0.0)


def generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=F64)


def as_module_network(mlp: MLP) -> ModuleNetwork:
    """The same network and packing, driven through its module."""
    return ModuleNetwork(mlp.to_module(torch.zeros(mlp.n_weights, dtype=F64)), mlp.n_outputs)


@dataclass(frozen=True)
class Problem:
    """A log posterior and the inputs at which it is queried."""

    log_posterior: LogPosterior
    queries: Tensor

    @property
    def prediction(self) -> Prediction:
        return Prediction(self.log_posterior.network, self.queries)

    def weights(self, *batch: int, seed: int = 0) -> Tensor:
        """Weights (*batch, P) that are no optimum."""
        return 0.7 * randn(*batch, self.log_posterior.n_weights, seed=seed)


# ------------------------------------------- the four one-dimensional tasks


@dataclass(frozen=True)
class Task:
    """y = function(x) + noise for x uniform on the intervals, as many in each."""

    function: Callable[[Tensor], Tensor]
    intervals: tuple[tuple[float, float], ...]
    centred: bool = False

    def problem(self, seed: int, n_rows: int = 32, noise_std: float = 0.1) -> Problem:
        draws = generator(seed)
        shape = len(self.intervals), n_rows // len(self.intervals)
        low, high = torch.tensor(self.intervals, dtype=F64).T[:, :, None]
        x = (low + (high - low) * torch.rand(shape, generator=draws, dtype=F64)).reshape(-1, 1)
        y = self.function(x) + noise_std * torch.randn(x.shape, generator=draws, dtype=F64)
        y = y - y.mean() if self.centred else y
        network = MLP((1, 50, 1), "tanh")
        groups = network.weight_groups()
        log_posterior = LogPosterior(
            network,
            GaussianLikelihood(torch.full((1,), noise_std**-2, dtype=F64)),
            GaussianPrior(torch.ones(len(groups), dtype=F64), groups),
            x,
            y,
            torch.ones(len(x), dtype=F64),
        )
        return Problem(log_posterior, torch.linspace(-2, 2, 21, dtype=F64)[:, None])


def quadratic(x: Tensor) -> Tensor:
    return 0.1 * x**2 - 0.5 * x + 5


def sine(x: Tensor) -> Tensor:
    return -torch.sin(3 * x - 0.3)


WHOLE, GAP = ((-2, 2),), ((-2, -1), (1, 2))
TASKS = {
    "quadratic": Task(quadratic, WHOLE, centred=True),
    "quadratic with gap": Task(quadratic, GAP, centred=True),
    "sine": Task(sine, WHOLE),
    "sine with gap": Task(sine, GAP),
}

# --------------------------------------------------- small problems of each kind


@dataclass(frozen=True)
class Kind:
    """A network with random data; groups and outputs all have precisions of their own."""

    network: Network
    n_features: int
    weighted: bool = False
    likelihood: type[GaussianLikelihood] = GaussianLikelihood

    def problem(self, seed: int, n_rows: int = 14, n_queries: int = 4) -> Problem:
        network = self.network
        k = self.likelihood.mean_link.n_values(network.n_outputs)
        X = randn(n_rows, self.n_features, seed=seed)
        y = torch.sin(X @ randn(self.n_features, k, seed=seed + 1))
        y = y + 0.2 * randn(n_rows, k, seed=seed + 2)
        groups = network.weight_groups()
        weight = torch.linspace(0.5, 2.5, n_rows, dtype=F64)
        log_posterior = LogPosterior(
            network,
            self.likelihood(torch.linspace(10, 20, k, dtype=F64)),
            GaussianPrior(torch.linspace(0.5, 2, len(groups), dtype=F64), groups),
            X,
            y,
            weight if self.weighted else torch.ones_like(weight),
        )
        return Problem(log_posterior, 1.5 * randn(n_queries, self.n_features, seed=seed + 3))


LINEAR = {
    "linear": Kind(MLP((2, 1)), 2),
    "linear, two outputs": Kind(MLP((2, 2)), 2),
    "linear, weighted": Kind(MLP((3, 1)), 3, weighted=True),
}
CURVED = {
    "one layer": Kind(MLP((1, 5, 1)), 1),
    "two layers": Kind(MLP((2, 4, 3, 1)), 2),
    "two outputs": Kind(MLP((2, 4, 2), "silu"), 2),
    "weighted": Kind(MLP((2, 4, 1), "gelu"), 2, weighted=True),
    "module": Kind(as_module_network(MLP((2, 3, 2), "logistic")), 2),
}
NOISY = {
    "log noise": Kind(
        MLP((2, 4, 4), "tanh", 2), 2, weighted=True, likelihood=HeteroscedasticLikelihood
    ),
}
PROBLEMS = {**LINEAR, **CURVED, **NOISY}


@cache
def problem(name: str, seed: int = 0) -> Problem:
    return {**TASKS, **PROBLEMS}[name].problem(seed)


def in_precision(lp: LogPosterior, dtype: torch.dtype, noise_factor: float = 1.0) -> LogPosterior:
    """The same in another precision, with the noise precision multiplied."""
    beta = noise_factor * lp.likelihood.noise_precision
    return replace(
        lp,
        likelihood=lp.likelihood.with_precision(beta.to(dtype)),
        prior=lp.prior.with_precision(lp.prior.group_precision.to(dtype)),
        X=lp.X.to(dtype),
        y=lp.y.to(dtype),
        sample_weight=lp.sample_weight.to(dtype),
    )


def estimate_at(log_posterior: LogPosterior, weights: Tensor) -> MapEstimate:
    """An estimate whose subspace holds all that the data determine."""
    subspace = krylov_subspace(GaussNewton(log_posterior, weights), generator(0))
    return MapEstimate(log_posterior, weights, subspace)


def without_subspace(estimate: MapEstimate) -> MapEstimate:
    """The same, with no direction known yet."""
    return replace(estimate, subspace=Subspace.empty(estimate.curvature().excess_diagonal()))


def amortized(estimate: MapEstimate, rtol: float) -> MapEstimate:
    """What a fit keeps of it with variance="amortized" and std_rtol."""
    subspace = krylov_subspace(estimate.curvature(), generator(2), beyond=2 * rtol, block_size=3)
    return replace(estimate, subspace=subspace).without_data(rtol)


@cache
def map_estimate(name: str, seed: int = 0) -> MapEstimate:
    """The problem trained to its MAP."""
    log_posterior = problem(name, seed).log_posterior
    network = log_posterior.network
    start = (
        initial_weights(network, generator(seed))
        if isinstance(network, MLP)
        else randn(network.n_weights, seed=seed)
    )
    trainer = NewtonCG(500, tol=0.0, n_iter_no_change=10, decrement_tol=1e-10)
    trajectory = trainer.train(log_posterior, start, generator(seed))
    return estimate_at(log_posterior, trajectory.weights)


# ------------------------------------------- plain functions with known minima


@dataclass(frozen=True)
class Landscape:
    """Problem b minimises function(u − b/10): the same valley, at another place."""

    function: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    minimum: tuple[float, ...]

    def starts(self, n: int) -> Tensor:
        return torch.tensor(self.start, dtype=F64) + 0.2 * randn(n, len(self.start))

    def minima(self, n: int) -> Tensor:
        return torch.tensor(self.minimum, dtype=F64) + torch.arange(n)[:, None] / 10

    def value_and_gradient(self, U: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        u = (U - index[:, None] / 10).requires_grad_()
        value = self.function(u)
        return value.detach(), torch.autograd.grad(value.sum(), u)[0]

    def precondition(self, G: Tensor) -> Tensor:
        return G


def rosenbrock(u: Tensor) -> Tensor:
    return (1 - u[:, 0]) ** 2 + 100 * (u[:, 1] - u[:, 0] ** 2) ** 2


def beale(u: Tensor) -> Tensor:
    x, y = u.T
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def barrier(u: Tensor) -> Tensor:
    """Not finite beyond 1 in any coordinate."""
    return (u**2 - 0.1 * torch.log(1 - u)).sum(1)


def cauchy(u: Tensor) -> Tensor:
    """Not convex beyond 1 in any coordinate."""
    return torch.log1p(u**2).sum(1)


def valley(u: Tensor) -> Tensor:
    """Condition number 1e4."""
    return (torch.logspace(0, 4, u.shape[1], dtype=F64) * (u - 1) ** 2).sum(1)


LANDSCAPES = {
    "rosenbrock": Landscape(rosenbrock, (-1.2, 1.0), (1.0, 1.0)),
    "beale": Landscape(beale, (1.0, 1.0), (3.0, 0.5)),
    "barrier": Landscape(barrier, (-5.0, 0.0, -2.0), 3 * ((1 - 1.2**0.5) / 2,)),
    "cauchy": Landscape(cauchy, (1.55,), (0.0,)),
    "valley": Landscape(valley, (0.0,) * 5, (1.0,) * 5),
}
