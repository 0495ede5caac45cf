"""Base: what regressor and classifier share, from parameters to fitted members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from sklearn_hfl._members import (
    Member,
    Route,
    fit_member,
    member_variances,
    warm_started,
    with_data,
)
from sklearn_hfl._params import (
    Rule,
    any_of,
    boolean,
    factory,
    integer,
    integers,
    none,
    one_of,
    random_state,
    real,
    validate,
)
from sklearn_hfl._standardizer import Standardizer
from sklearn_hfl._storage import packed, unpacked
from sklearn_hfl._translation import Trained, module_start
from sklearn_hfl._validation import Array, check_features, check_finite, to_numpy, to_tensor
from sklearn_hfl.calibration.fingerprints import Fingerprints
from sklearn_hfl.exceptions import warn
from sklearn_hfl.optim.krylov import most_directions
from sklearn_hfl.optim.map_estimate import MapEstimate
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.initialization import initial_weights, scaled_precision
from sklearn_hfl.posterior.likelihood import Likelihood
from sklearn_hfl.posterior.link import IDENTITY, Link
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.network import ACTIVATIONS, MLP, Network
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["HFLBase"]

# The network route differences optima of L itself, so its MAP is polished to this
# many posterior standard deviations; the other routes need no more than ``tol``.
POLISHED_DECREMENT = 1e-8
BLOCK_OF_ROWS = 4096


def _rows(X: Tensor, y: Tensor) -> Iterator[Array]:
    """Inputs and targets side by side, in blocks of rows."""
    for block in zip(X.split(BLOCK_OF_ROWS), y.split(BLOCK_OF_ROWS), strict=True):
        yield np.hstack([to_numpy(part) for part in block])


def _negative(value: object) -> bool:
    return isinstance(value, Integral) and int(value) < 0


class HFLBase(BaseEstimator):
    """Fit members and answer queries; the subclasses give likelihood and meaning."""

    _x_scaler: Standardizer
    _trained_rows: Fingerprints

    _rules: ClassVar[dict[str, Rule]] = {
        "hidden_layer_sizes": any_of(integer(1), integers(1)),
        "activation": one_of(*ACTIVATIONS),
        "module": factory(),
        "prior_precision": any_of(one_of("evidence"), real(0)),
        "normalize_X": boolean(),
        "variance": one_of("linearized", "network", "pretrained"),
        "std_rtol": real(0, 1),
        "perturbation_scale": any_of(one_of("auto"), real(0)),
        "solver": one_of("newton-cg", "lbfgs", "adam"),
        "max_iter": integer(1),
        "tol": real(0, or_equal=True),
        "batch_size": any_of(one_of("auto"), integer(1)),
        "learning_rate_init": real(0),
        "early_stopping": boolean(),
        "validation_fraction": real(0, 1),
        "n_iter_no_change": integer(1),
        "warm_start": boolean(),
        "n_estimators": integer(1),
        "random_state": random_state(),
        "verbose": any_of(boolean(), integer(0)),
        "n_jobs": any_of(none(), integer(1), Rule("an integer ≤ -1", _negative)),
        "dtype": one_of("float32", "float64"),
    }

    def _check_params(self) -> None:
        validate(type(self).__name__, self.get_params(deep=False), self._rules)
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

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """Put every attribute back if fitting fails or is interrupted."""
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit_members(
        self,
        inputs: Tensor,
        y: Tensor,
        sample_weight: Array,
        likelihood: Likelihood,
        options: EvidenceOptions,
        trained: Trained | None,
    ) -> tuple[Member, ...]:
        """Train ``n_estimators`` MAPs from seeds drawn before anything else.

        A network that is ``trained`` elsewhere takes the place of a random start.
        """
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=self.n_estimators)
        weight = self._tensor(sample_weight)
        jobs, warm = [], self._warm_members()
        n_outputs = likelihood.n_outputs(y.shape[1])
        start = partial(self._start, n_noise=n_outputs - y.shape[1])
        for i, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(int(seed))
            begin = start if trained is None else trained.start
            network, weights = begin(inputs, n_outputs, generator)
            labels, names = network.group_labels()
            alpha = self._fixed_prior_precision()
            precision = (
                scaled_precision(network, 1.0)
                if alpha is None
                else torch.full((len(names),), alpha)
            )
            prior = GaussianPrior(precision.to(inputs), labels.to(inputs.device), names)
            log_posterior = LogPosterior(network, likelihood, prior, inputs, y, weight)
            if i < len(warm):
                log_posterior, weights = warm_started(warm[i], log_posterior, weights)
            jobs.append((log_posterior, weights, generator))
        trainer = self._trainer(jobs[0][2], inputs)
        if trained is not None:
            jobs = [(trained.settled(*job, options), *job[1:]) for job in jobs]
            trainer, options = trained.trainer(trainer), EvidenceOptions(False, False)
        self._trained_rows = Fingerprints.of_rows(_rows(inputs, y))
        route = self._route()
        results = Parallel(n_jobs=self.n_jobs)(
            delayed(fit_member)(*job, trainer, options, route, bool(self.verbose)) for job in jobs
        )
        if not route.needs_data:
            return tuple(results)
        # Members share the data, also when other processes trained them.
        return tuple(
            replace(member, estimate=with_data(member.estimate, inputs, y, weight))
            for member in results
        )

    @property
    def _learns_prior(self) -> bool:
        return isinstance(self.prior_precision, str)

    def _fixed_prior_precision(self) -> float | None:
        return None if self._learns_prior else float(self.prior_precision)

    def _start(
        self, X: Tensor, n_outputs: int, generator: torch.Generator, n_noise: int
    ) -> tuple[Network, Tensor]:
        if self.module is None:
            hidden = tuple(int(size) for size in np.atleast_1d(self.hidden_layer_sizes))
            mlp = MLP((X.shape[1], *hidden, n_outputs), self.activation, n_noise)
            return mlp, initial_weights(mlp, generator).to(X)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        # The factory draws from torch's global generator: seeded for it, then put back.
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            return module_start(self.module(X.shape[1], n_outputs), X, n_outputs)

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
        best = _best(members)
        estimate, facts = best.estimate, best.diagnostics
        prior = estimate.log_posterior.prior
        self.estimators_ = members
        self.module_ = _module(estimate)
        # Those of the last fit, which this one may not have.
        for name in ("coefs_", "intercepts_", "conformity_scores_"):
            self.__dict__.pop(name, None)
        if self.module is None:
            linear = [m for m in self.module_.modules() if isinstance(m, torch.nn.Linear)]
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
        most = most_directions(estimate.log_posterior)
        if most < len(estimate.weights) and any(m.diagnostics.rank >= most for m in members):
            warn(
                f"The memory limit ended the search for directions that the data determine at "
                f"{most} of {len(estimate.weights)}. Standard deviations whose bound is too wide "
                "will be reported, and the evidence is less exact. Try fewer hidden units, "
                "dtype='float32', or a larger sklearn_hfl.posterior.log_posterior.MEMORY_LIMIT."
            )
        # Noise that was given says how closely rows are to be fitted; diagnostics_ has the numbers.
        if facts.worse_than_guessing and isinstance(getattr(self, "noise_std", "evidence"), str):
            warn(
                f"Over-fitted: left out one at a time, the training rows have a mean log density "
                f"of {facts.log_density_left_out:.3g}, but {facts.log_density:.3g} where they are "
                "fitted, and more without any features. Predictions for new rows are not to be "
                "trusted. Try prior_precision='evidence' or a larger number, fewer features or "
                "hidden units, or hidden_layer_sizes=()."
            )
        if not self.converged_:
            worst = max(m.diagnostics.decrement for m in members)
            # Only weights that were trained elsewhere are left as they came.
            reached = f"reached after {self.n_iter_} steps" if self.n_iter_ else "given"
            advice = (
                "Try a larger max_iter, a smaller tol, or solver='newton-cg'."
                if self.n_iter_
                else "polish=True trains on to the MAP."
            )
            warn(
                f"The MAP is not stationary: it lies about {worst:.3g} posterior standard "
                f"deviations from the weights {reached} (‖∇L‖ = {facts.grad_norm:.3g}). Standard "
                f"deviations are those of the Laplace approximation at these weights. {advice}"
            )

    # ---------------------------------------------------------------- copies

    def __getstate__(self) -> dict[str, Any]:
        """Arrays in place of tensors: skops writes them, and reads them without running code."""
        state = dict(super().__getstate__())
        if self.module is None:
            state.pop("module_", None)
        return packed(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(unpacked(state))
        if self.module is None and hasattr(self, "estimators_"):
            self.module_ = _module(_best(self.estimators_).estimate)

    # ---------------------------------------------------------------- queries

    def _queries(self, X: Any) -> Tensor:
        return self._tensor(self._x_scaler.transform(check_features(self, X)))

    def _route(self) -> Route:
        return Route(self.variance, self.std_rtol, self.perturbation_scale)

    def _query_route(self) -> Route:
        """How to answer, where the fit has kept what that needs."""
        route = self._route()
        pretrained = self.estimators_[0].estimate.ritz is not None
        if pretrained == route.needs_data:
            fitted, kept = (
                ("'pretrained'", "has kept no data")
                if pretrained
                else ("another value", "has built no subspace for queries without data")
            )
            raise ValueError(
                f"{type(self).__name__}: variance is {self.variance!r}, but the estimator was "
                f"fitted with {fitted}, and {kept}. Call fit again after "
                "set_params(variance=...)."
            )
        return route

    def _variances(self, X: Tensor, link: Link = IDENTITY) -> list[Variance]:
        """Variances of each member at X (Q, D), with a warning that counts the misses."""
        variances = member_variances(
            self.estimators_, X, self._query_route(), self.n_jobs, bool(self.verbose), link
        )
        self._warn_of_misses(variances)
        return variances

    def _warn_of_trained_rows(self, X: Tensor, y: Tensor) -> None:
        """Warn of calibration rows, standardised as in training, that were trained on."""
        count = self._trained_rows.count(np.vstack(list(_rows(X, y))))
        if count:
            about = "" if self._trained_rows.complete else "About "
            warn(
                f"{about}{count} of {len(X)} calibration rows were trained on, or are copies of "
                "rows that were. Their scores are too good, and coverage will fall short. Split "
                "the data before fit, and give conformalize the part that fit has not seen."
            )

    def _warn_of_misses(self, variances: list[Variance]) -> None:
        check_finite([v.value for v in variances], "variances")
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
        elif self.variance == "pretrained":
            text = (
                f"{count} of {total} standard deviations missed std_rtol={self.std_rtol:g} with "
                "the subspace that fit has left. Fit again with this std_rtol, dtype='float64', "
                "a larger noise_std or prior_precision, or variance='linearized', which asks the "
                "data; predict_uncertainty tells each row's error bound."
            )
        else:
            text = (
                f"{count} of {total} standard deviations missed std_rtol={self.std_rtol:g}: the "
                "curvature is too ill-conditioned for this dtype. Try a larger noise_std or "
                "prior_precision, dtype='float64', or a larger std_rtol; predict_uncertainty "
                "tells each row's error bound."
            )
        warn(text)


def _best(members: Sequence[Member]) -> Member:
    return max(members, key=lambda member: member.diagnostics.log_evidence)


def _module(estimate: MapEstimate) -> torch.nn.Module:
    return estimate.log_posterior.network.to_module(estimate.weights)
