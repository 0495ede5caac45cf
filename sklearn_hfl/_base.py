"""Base: what regressor and classifier share, from parameters to fitted members."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor
from tqdm import tqdm

from sklearn_hfl._params import (
    Rule,
    any_of,
    boolean,
    factory,
    integer,
    one_of,
    real,
    reals,
    validate,
)
from sklearn_hfl._validation import Array, check_module, to_tensor
from sklearn_hfl.exceptions import HFLWarning
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.optim.subspace import krylov_subspace
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.curvature import GaussNewton
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.posterior.initialization import initial_weights
from sklearn_hfl.posterior.likelihood import Likelihood
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import ACTIVATIONS, MLP, ModuleNetwork, Network
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.diagnostics import Diagnostics, diagnose
from sklearn_hfl.uncertainty.evidence import EvidenceOptions, maximize_evidence
from sklearn_hfl.uncertainty.variance import Variance, variance

__all__ = ["HFLBase", "Member"]

# Evidence starts from here: weights of order one, and most of the target taken as
# noise, so that the first rounds do not chase an over-fitted mode.
START_PRIOR_PRECISION = 1.0
# The network route differences optima of L itself, so its MAP is polished to this
# many posterior standard deviations; the other routes need no more than ``tol``.
POLISHED_DECREMENT = 1e-8
MOST_QUERIES = 1024


@dataclass(frozen=True)
class Member:
    """One MAP with its own Laplace posterior.

    Attributes
    ----------
    estimate : MapEstimate
        Weights, log posterior and subspace.
    diagnostics : Diagnostics
        Facts of the fit.
    loss_curve : tuple of float
        L on the way, in nats.
    """

    estimate: MapEstimate
    diagnostics: Diagnostics
    loss_curve: tuple[float, ...]


class HFLBase(BaseEstimator):  # type: ignore[misc]
    """Fit members and answer queries; the subclasses give likelihood and meaning."""

    _rules: ClassVar[dict[str, Rule]] = {
        "hidden_layer_sizes": any_of(integer(1), reals(0)),
        "activation": one_of(*ACTIVATIONS),
        "module": factory(),
        "prior_precision": any_of(one_of("evidence"), real(0)),
        "normalize_X": boolean(),
        "variance": one_of("linearized", "network"),
        "std_rtol": real(0, 1),
        "perturbation_scale": any_of(one_of("auto"), real(0)),
        "solver": one_of("newton-cg", "lbfgs", "adam"),
        "max_iter": integer(1),
        "tol": real(-1e-300),
        "batch_size": any_of(one_of("auto"), integer(1)),
        "learning_rate_init": real(0),
        "early_stopping": boolean(),
        "validation_fraction": real(0, 1),
        "n_iter_no_change": integer(1),
        "warm_start": boolean(),
        "n_estimators": integer(1),
        "dtype": one_of("float32", "float64"),
    }

    def _validate_params(self) -> None:
        validate(type(self).__name__, self.get_params(deep=False), self._rules)
        sizes = np.atleast_1d(np.asarray(self.hidden_layer_sizes, dtype=float))
        if (sizes != np.round(sizes)).any():
            raise ValueError(
                f"{type(self).__name__}: hidden_layer_sizes must be integers ≥ 1, "
                f"but got {self.hidden_layer_sizes!r}."
            )
        if self.early_stopping and self.solver != "adam":
            raise ValueError(
                f"{type(self).__name__}: early_stopping=True works with solver='adam' only, but "
                f"solver is {self.solver!r}. The other solvers stop by tol."
            )
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(
                f"{type(self).__name__}: device must be usable by torch, but {self.device!r} is "
                f"not: {error}"
            ) from error

    def _tensor(self, values: Array) -> Tensor:
        return to_tensor(values, self.dtype, self.device)

    # ---------------------------------------------------------------- fitting

    def _fit_members(
        self, X: Array, y: Tensor, sample_weight: Array, likelihood: Likelihood, learn_noise: bool
    ) -> tuple[Member, ...]:
        """Train ``n_estimators`` MAPs from seeds drawn before anything else."""
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=self.n_estimators)
        inputs, weight = self._tensor(X), self._tensor(sample_weight)
        jobs, warm = [], self._warm_members()
        for i, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(int(seed))
            network, weights = self._start(inputs, y.shape[1], generator)
            labels, names = network.group_labels()
            alpha = self._fixed_prior_precision() or START_PRIOR_PRECISION
            precision = inputs.new_full((len(names),), alpha)
            prior = GaussianPrior(precision, labels.to(inputs.device), names)
            log_posterior = LogPosterior(network, likelihood, prior, inputs, y, weight)
            if i < len(warm):
                log_posterior, weights = _warm(warm[i], log_posterior, weights)
            jobs.append((log_posterior, weights, generator))
        trainer = self._trainer(jobs[0][2], inputs)
        options = EvidenceOptions(self._fixed_prior_precision() is None, learn_noise)
        results = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_member)(*job, trainer, options, bool(self.verbose)) for job in jobs
        )
        # Members share the data, also when other processes trained them.
        return tuple(
            replace(member, estimate=_with_data(member.estimate, inputs, y, weight))
            for member in results
        )

    def _fixed_prior_precision(self) -> float | None:
        return None if isinstance(self.prior_precision, str) else float(self.prior_precision)

    def _start(self, X: Tensor, n_outputs: int, generator: torch.Generator) -> tuple[Network, Tensor]:
        if self.module is None:
            hidden = tuple(int(size) for size in np.atleast_1d(self.hidden_layer_sizes))
            mlp = MLP((X.shape[1], *hidden, n_outputs), self.activation)
            return mlp, initial_weights(mlp, generator).to(X)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        # The factory draws from torch's global generator: seeded for it, then put back.
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            module = check_module(self.module(X.shape[1], n_outputs), X, n_outputs)
        network = ModuleNetwork(module, n_outputs)
        return network, network.packing.pack([p.detach() for p in module.parameters()])

    def _trainer(self, generator: torch.Generator, X: Tensor) -> Trainer:
        n = len(X)
        held_out = None
        if self.early_stopping:
            count = max(1, round(self.validation_fraction * n))
            held_out = torch.zeros(n, dtype=torch.bool)
            held_out[torch.randperm(n, generator=generator)[:count]] = True
            held_out = held_out.to(X.device)
        return Trainer(
            self.solver,
            self.max_iter,
            tol=0.0 if self.variance == "network" else self.tol,
            n_iter_no_change=self.n_iter_no_change,
            decrement_tol=POLISHED_DECREMENT,
            batch_size=min(200, n) if self.batch_size == "auto" else min(self.batch_size, n),
            learning_rate=self.learning_rate_init,
            validation_rows=held_out,
        )

    def _warm_members(self) -> tuple[Member, ...]:
        return getattr(self, "estimators_", ()) if self.warm_start else ()

    def _record(self, members: tuple[Member, ...]) -> None:
        """Set the fitted attributes, all at once, after everything that can fail."""
        best = max(members, key=lambda member: member.diagnostics.log_evidence)
        estimate, facts = best.estimate, best.diagnostics
        prior = estimate.log_posterior.prior
        self.estimators_ = members
        self.module_ = estimate.log_posterior.network.to_module(estimate.weights)
        if self.module is None:
            linear = [m for m in self.module_ if isinstance(m, torch.nn.Linear)]
            self.coefs_ = [m.weight.detach().cpu().double().numpy().T.copy() for m in linear]
            self.intercepts_ = [m.bias.detach().cpu().double().numpy().copy() for m in linear]
        self.n_iter_ = len(best.loss_curve) - 1
        self.loss_ = facts.loss
        self.loss_curve_ = list(best.loss_curve)
        self.prior_precision_ = {
            name: float(alpha)
            for name, alpha in zip(prior.names, prior.group_precision, strict=True)
        }
        self.n_effective_parameters_ = facts.n_effective_parameters
        self.log_marginal_likelihood_ = facts.log_evidence
        self.grad_norm_ = facts.grad_norm
        self.converged_ = all(m.diagnostics.stationary for m in members)
        self.diagnostics_ = {
            "n_weights": len(estimate.weights),
            "members": [
                {**asdict(m.diagnostics), "n_iter": len(m.loss_curve) - 1} for m in members
            ],
        }
        if not self.converged_:
            worst = max(m.diagnostics.decrement for m in members)
            warnings.warn(
                f"The MAP is not stationary: it lies about {worst:.3g} posterior standard "
                f"deviations from the weights reached after {self.n_iter_} steps (‖∇L‖ = "
                f"{facts.grad_norm:.3g}). Standard deviations are those of the Laplace "
                "approximation at these weights. Try a larger max_iter, a smaller tol, or "
                "solver='newton-cg'.",
                HFLWarning,
                stacklevel=3,
            )

    # ---------------------------------------------------------------- queries

    def _means(self, X: Tensor) -> list[Tensor]:
        """MAP outputs (Q, K) of each member."""
        means = []
        for member in self.estimators_:
            lp, weights = member.estimate.log_posterior, member.estimate.weights
            size = max(1, int(lp.memory_limit / (lp.network.width * X.element_size())))
            parts = [lp.network.forward(weights[None], part)[0] for part in X.split(size)]
            means.append(torch.cat(parts))
        return means

    def _variances(self, X: Tensor) -> list[Variance]:
        """Variances of the Q·K outputs of each member, chunk by chunk, and warn of misses."""
        chunks = X.split(self._chunk_size())
        tasks = [(m.estimate, chunk) for m in self.estimators_ for chunk in chunks]
        progress = tqdm(tasks, desc="standard deviations", disable=not self.verbose)
        parts = Parallel(n_jobs=self.n_jobs)(
            delayed(_variance)(
                estimate, chunk, self.variance, self.std_rtol, self.perturbation_scale
            )
            for estimate, chunk in progress
        )
        n = len(chunks)
        merged = [_concatenate(parts[i : i + n]) for i in range(0, len(parts), n)]
        self._warn_of_misses(merged)
        return merged

    def _chunk_size(self) -> int:
        """Queries that a chunk may hold, for peak memory to follow the limit."""
        lp = self.estimators_[0].estimate.log_posterior
        # Gradient, step and residual; the network route adds its pairs and L-BFGS histories.
        vectors = 8 if self.variance == "linearized" else 60
        per_query = vectors * lp.n_weights * lp.network.n_outputs * lp.X.element_size()
        return max(1, min(MOST_QUERIES, int(lp.memory_limit / per_query)))

    def _warn_of_misses(self, variances: list[Variance]) -> None:
        missed = ~torch.stack([v.converged for v in variances]).all(0)
        if not missed.any():
            return
        count, total = int(missed.sum()), len(missed)
        if self.variance == "network":
            text = (
                f"{count} of {total} standard deviations are linearized: the refitted network "
                "did not settle, or two perturbation scales disagreed. Try a larger max_iter, "
                "so that the MAP is reached, a larger prior_precision, or variance='linearized'."
            )
        else:
            text = (
                f"{count} of {total} standard deviations missed std_rtol={self.std_rtol:g}: the "
                "curvature is too ill-conditioned for this dtype. Try a larger noise_std or "
                "prior_precision, dtype='float64', or a larger std_rtol; predict_uncertainty "
                "tells each row's error bound."
            )
        warnings.warn(text, HFLWarning, stacklevel=4)


def _fit_member(
    log_posterior: LogPosterior,
    weights: Tensor,
    generator: torch.Generator,
    trainer: Trainer,
    options: EvidenceOptions,
    verbose: bool,
) -> Member:
    """Train one MAP: precisions by evidence first, then the weights at those precisions."""
    start = float(log_posterior.value(weights[None])[0])
    if not np.isfinite(start):
        raise ValueError(
            f"The loss at the starting weights is {start}: the data overflow "
            f"{log_posterior.X.dtype}. Set normalize_X=True and normalize_y=True, or rescale."
        )
    curve: tuple[float, ...] = (start,)
    with tqdm(total=trainer.max_iter, desc="fit", unit="step", disable=not verbose) as bar:
        callback = _progress(bar)
        if options.prior or options.noise:
            log_posterior, weights, steps = maximize_evidence(
                log_posterior, weights, trainer, options, generator, callback
            )
            curve += steps
        left = trainer.max_iter - (len(curve) - 1)
        if left > 0:
            trajectory = replace(trainer, max_iter=left).train(
                log_posterior, weights, generator, callback
            )
            weights = trajectory.weights
            curve += trajectory.curve[1:]
    subspace = krylov_subspace(GaussNewton(log_posterior, weights), generator)
    estimate = MapEstimate(log_posterior, weights, subspace)
    return Member(estimate, diagnose(estimate), curve)


def _progress(bar: Any) -> Callable[[float], None]:
    def callback(loss: float) -> None:
        bar.update()
        bar.set_postfix(loss=f"{loss:.6g}", refresh=False)

    return callback


def _warm(
    member: Member, log_posterior: LogPosterior, weights: Tensor
) -> tuple[LogPosterior, Tensor]:
    """Weights and precisions of the last fit, where they still fit the problem."""
    old = member.estimate
    if old.weights.shape != weights.shape or old.log_posterior.prior.names != log_posterior.prior.names:
        return log_posterior, weights
    return log_posterior, old.weights.to(weights)


def _with_data(estimate: MapEstimate, X: Tensor, y: Tensor, weight: Tensor) -> MapEstimate:
    log_posterior = replace(estimate.log_posterior, X=X, y=y, sample_weight=weight)
    return replace(estimate, log_posterior=log_posterior)


def _variance(
    estimate: MapEstimate, X: Tensor, mode: str, rtol: float, perturbation_scale: float | str
) -> Variance:
    functional = Prediction(estimate.log_posterior.network, X)
    optima = perturbed_optima(
        estimate, functional, mode, rtol=rtol, perturbation_scale=perturbation_scale
    )
    return variance(optima, rtol)


def _concatenate(parts: list[Variance]) -> Variance:
    return Variance(
        torch.cat([p.value for p in parts]),
        torch.cat([p.rel_error for p in parts]),
        torch.cat([p.converged for p in parts]),
    )
