"""Base: what regressor and classifier share, from parameters to fitted members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_hfl._data.cluster_chunks import ClusterChunks
from sklearn_hfl._data.conformity import fingerprints
from sklearn_hfl._data.held_out import held_out_rows
from sklearn_hfl._data.params import (
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
from sklearn_hfl._data.standardizer import Standardizer
from sklearn_hfl._data.storage import packed, unpacked
from sklearn_hfl._data.validation import Array, check_features, check_finite, to_tensor
from sklearn_hfl._ensemble.advice import of_fit, of_missed_rows
from sklearn_hfl._ensemble.ensemble import Ensemble
from sklearn_hfl._ensemble.fit import fit_members
from sklearn_hfl._ensemble.member import Asked, Member, Resumed, asked_for
from sklearn_hfl._ensemble.route import Route
from sklearn_hfl._ensemble.trained import Trained
from sklearn_hfl.calibration.fingerprints import Fingerprints
from sklearn_hfl.exceptions import HFLConvergenceWarning, warn
from sklearn_hfl.optim.solvers import SOLVERS, chosen_solver, make_trainer
from sklearn_hfl.optim.training import Trainer
from sklearn_hfl.posterior.initialization import initial_weights, scaled_precision
from sklearn_hfl.posterior.likelihood import Likelihood
from sklearn_hfl.posterior.link import IDENTITY, Link
from sklearn_hfl.posterior.log_posterior import LogPosterior
from sklearn_hfl.posterior.module import module_start, seeded
from sklearn_hfl.posterior.network import ACTIVATIONS, MLP, Network
from sklearn_hfl.posterior.prior import GaussianPrior
from sklearn_hfl.posterior.rescaling import Affine, rescaled_module, rescaled_weights
from sklearn_hfl.uncertainty.precisions import EvidenceOptions
from sklearn_hfl.uncertainty.predictive import Predictive, mixture
from sklearn_hfl.uncertainty.variance import Variance

__all__ = ["HFLBase"]

DOCUMENTATION = "https://sklearn-hfl.github.io/sklearn-hfl"
# The network route differences optima of L itself, so its MAP is polished to this
# many posterior standard deviations; the other routes need no more than ``tol``.
POLISHED_DECREMENT = 1e-8


def _negative(value: object) -> bool:
    return isinstance(value, Integral) and int(value) < 0


class HFLBase(BaseEstimator):
    """Fit members and answer queries; the subclasses give likelihood and meaning."""

    # Where the HTML representation links to, as scikit-learn's developer guide describes.
    _doc_link_module = "sklearn_hfl"
    _doc_link_template = DOCUMENTATION + "/generated/{estimator_module}.{estimator_name}.html"

    _x_scaler: Standardizer
    _trained_rows: Fingerprints
    _n_rows: int  # in the X of fit
    # Numbers of the training rows that have a weight; None: all of them.
    _row_numbers: NDArray[np.intp] | None = None
    # Parameters that queries read, and set_params may change after fit.
    _query_params: ClassVar[tuple[str, ...]] = (
        "variance", "std_rtol", "perturbation_scale", "memory_limit", "n_jobs", "verbose"
    )  # fmt: skip

    _rules: ClassVar[dict[str, Rule]] = {
        "hidden_layer_sizes": any_of(integer(1), integers(1)),
        "activation": one_of(*ACTIVATIONS),
        "module": factory(),
        "prior_precision": any_of(one_of("evidence"), real(1e-35, 1e35)),  # in float32
        "normalize_X": boolean(),
        "variance": one_of("linearized", "network", "amortized"),
        "std_rtol": real(0, 1),
        "perturbation_scale": any_of(one_of("auto"), real(0)),
        "solver": one_of("auto", *SOLVERS),
        "memory_limit": real(0),
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_params(self) -> None:
        validate(type(self).__name__, self.get_params(deep=False), self._rules)
        if self.early_stopping and self.solver not in ("auto", "adam"):
            raise ValueError(
                f"{type(self).__name__}: early_stopping=True works with solver='adam' or 'auto', "
                f"but solver is {self.solver!r}, which stops by tol."
            )
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(
                f"{type(self).__name__}: device must be usable by torch, but {self.device!r} is "
                f"not: {error}"
            ) from error

    # ---------------------------------------------------------------- fitting

    def _fit_tensor(self, values: Array) -> Tensor:
        """Numbers in the dtype and on the device of this fit."""
        return to_tensor(values, self.dtype, self.device)

    def _learns_units(self, trained: Trained | None) -> bool:
        """Whether the fit does not depend on units; a given prior has units of its own."""
        return self._learns_prior and trained is None

    def _scaled(
        self, values: Array, weight: Array, standardize: bool, free: bool
    ) -> tuple[Standardizer, Affine | None, Affine | None]:
        """Standardise if asked to, or if the fit is ``free`` of units, where it changes nothing.

        Also returns the units of the initial weights, where values are not standardised, and
        those of ``module_``, where they are standardised for numerical reasons alone.
        """
        standard = Standardizer.from_data(values, weight)
        if standardize:
            return standard, None, None
        units = Affine(self._fit_tensor(standard.scale), self._fit_tensor(standard.mean))
        return (standard, None, units) if free else (standard.identity(), units, None)

    @contextmanager
    def _unchanged_on_failure(self) -> Iterator[None]:
        """Restore every attribute if fitting fails or is interrupted."""
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
        units: tuple[Affine | None, Affine | None],
        chunks: ClusterChunks | None = None,
    ) -> tuple[Member, ...]:
        """Train ``n_estimators`` MAPs from seeds drawn before anything else.

        Initial weights are drawn for standardised values and rescaled to the ``units`` of inputs
        and targets, or come from a network that was ``trained`` elsewhere. Rows in ``chunks``
        take the place of those given, which then stand for them.
        """
        weight = self._fit_tensor(sample_weight)
        held = slice(None if chunks is None else 0)
        data = inputs[held], y[held], weight[held]
        jobs, warm = [], self._warm_members() if trained is None else {}
        # Members that were left out leave gaps, and all keep the places of their seeds.
        known = sorted(warm)[: self.n_estimators]
        free = (place for place in count() if place not in warm)
        places = sorted([*known, *islice(free, self.n_estimators - len(known))])
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=places[-1] + 1)
        asked: Asked | None = None
        resumed: list[Resumed | None] = [None] * self.n_estimators
        n_outputs = likelihood.n_outputs(y.shape[1])
        start = partial(self._start, n_noise=n_outputs - y.shape[1], units=units)
        for i, place in enumerate(places):
            generator = torch.Generator().manual_seed(int(seeds[place]))
            begin = start if trained is None else trained.begin
            network, weights = begin(inputs, n_outputs, generator)
            groups = network.weight_groups()
            alpha = self._fixed_prior_precision()
            precision = (
                scaled_precision(network, 1.0)
                if alpha is None
                else torch.full((len(groups),), alpha)
            )
            prior = GaussianPrior(precision.to(inputs), groups.to(inputs.device))
            limit = float(self.memory_limit)
            log_posterior = LogPosterior(network, likelihood, prior, *data, limit, chunks=chunks)
            given = self.prior_precision, getattr(self, "noise_std", None)
            asked = asked_for(network, self.module, units, likelihood, *given)
            if place in warm:
                if options.prior or options.noise:  # a search that is needed starts anew
                    resumed[i] = warm[place].resumed(log_posterior, options, asked)
                else:
                    weights = warm[place].starts(log_posterior, weights, asked)
            jobs.append((log_posterior, weights, generator))
        trainer = self._trainer(jobs[0][2], inputs)
        if trained is not None:
            jobs = [(trained.with_precisions(*job, options), *job[1:]) for job in jobs]
            trainer, options = trained.trainer(trainer), EvidenceOptions(False, False)
        route = self._route()
        kept = slice(None if route.needs_data else 0)  # without data no hashes of them either
        self._row_numbers = self._row_numbers if route.needs_data else None
        if chunks is not None and route.needs_data:
            self._trained_rows = chunks.fingerprints()
        else:
            self._trained_rows = fingerprints(data[0][kept], data[1][kept])
        # Passes over chunks start from this process.
        n_jobs = self.n_jobs if chunks is None else 1
        return fit_members(
            jobs, resumed, trainer, options, route, n_jobs, bool(self.verbose), asked, places
        )

    @property
    def _learns_prior(self) -> bool:
        return isinstance(self.prior_precision, str)

    def _fixed_prior_precision(self) -> float | None:
        return None if self._learns_prior else float(self.prior_precision)

    def _start(
        self,
        X: Tensor,
        n_outputs: int,
        generator: torch.Generator,
        n_noise: int,
        units: tuple[Affine | None, Affine | None],
    ) -> tuple[Network, Tensor]:
        if self.module is None:
            hidden = tuple(int(size) for size in np.atleast_1d(self.hidden_layer_sizes))
            mlp = MLP((X.shape[1], *hidden, n_outputs), self.activation, n_noise)
            return mlp, rescaled_weights(mlp, initial_weights(mlp, generator).to(X), *units)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        with seeded(seed):
            module = self.module(X.shape[1], n_outputs)
            return module_start(module, X, n_outputs, standardized=self.normalize_X)

    def _trainer(self, generator: torch.Generator, X: Tensor) -> Trainer:
        n = len(X)
        held_out = None
        if self.early_stopping:
            name, share = type(self).__name__, self.validation_fraction
            held_out = held_out_rows(name, n, share, generator).to(X.device)
        return make_trainer(
            chosen_solver(self.solver, self.early_stopping),
            max_iter=self.max_iter,
            tol=0.0 if self.variance == "network" else self.tol,
            n_iter_no_change=self.n_iter_no_change,
            decrement_tol=POLISHED_DECREMENT,
            batch_size=min(200, n) if self.batch_size == "auto" else min(self.batch_size, n),
            learning_rate=self.learning_rate_init,
            validation_rows=held_out,
        )

    def _warm_members(self) -> dict[int, Member]:
        return {m.place: m for m in getattr(self, "members_", ())} if self.warm_start else {}

    def _record(
        self, members: tuple[Member, ...], units: tuple[Affine | None, Affine | None]
    ) -> None:
        """Set the fitted attributes, all at once, after everything that can fail.

        ``units`` are those that ``module_`` takes and gives, where they are not the ones of
        the fit.
        """
        best = _best(members)
        estimate, facts = best.estimate, best.diagnostics
        prior = estimate.log_posterior.prior
        self.members_ = members
        self.module_ = rescaled_module(estimate.log_posterior.network, estimate.weights, *units)
        # Attributes of the previous fit that this one may not set.
        for name in ("coefs_", "intercepts_", "conformity_scores_", "_scored_with"):
            self.__dict__.pop(name, None)
        if self.module is None:
            linear = [m for m in self.module_.modules() if isinstance(m, torch.nn.Linear)]
            self.coefs_ = [m.weight.detach().cpu().double().numpy().T.copy() for m in linear]
            self.intercepts_ = [m.bias.detach().cpu().double().numpy().copy() for m in linear]
        self.solver_ = best.solver_name
        self.n_iter_ = len(best.loss_curve) - 1
        self.loss_ = facts.loss
        self.loss_curve_ = list(best.loss_curve)
        names, alphas = prior.groups.names, prior.group_precision.tolist()
        if hasattr(self, "feature_names_in_"):
            names = prior.groups.named(self.feature_names_in_)
        self.prior_precision_ = dict(zip(names, alphas, strict=True))
        self.n_effective_parameters_ = facts.n_effective_parameters
        self.log_marginal_likelihood_ = facts.log_evidence
        self.grad_norm_ = facts.grad_norm
        self.converged_ = all(m.diagnostics.stationary and m.diagnostics.finished for m in members)
        self.diagnostics_ = {
            "n_weights": len(estimate.weights),
            "members": [member.facts for member in members],
        }
        for message, category in of_fit(self, members, best):
            warn(message, category)

    # ---------------------------------------------------------------- copies

    def __getstate__(self) -> dict[str, Any]:
        """State with arrays instead of tensors, which skops loads without running code."""
        state = dict(super().__getstate__())
        if "coefs_" in state:
            state.pop("module_", None)
        return packed(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(unpacked(state))
        if hasattr(self, "coefs_"):
            layers = zip(self.coefs_, self.intercepts_, strict=True)
            tensors = [self._tensor(a) for W, b in layers for a in (W.T, b)]
            # Of the member that ``_record`` took them from: others may have kept another model.
            network = _best(self.members_).network
            self.module_ = network.to_module(network.packing.pack(tensors))

    # ---------------------------------------------------------------- queries

    def _tensor(self, values: Array) -> Tensor:
        """Numbers in the dtype and on the device of the fitted weights."""
        weights = self.members_[0].estimate.weights
        return to_tensor(values, weights.dtype, weights.device)

    def _queries(self, X: Any) -> Tensor:
        """Queries (Q, D) as the members take them."""
        return self._standardized(check_features(self, X))

    def _standardized(self, rows: Array) -> Tensor:
        """Rows (n, D) as the members take them; every query passes through here."""
        self._check_query_params()
        weights = self.members_[0].estimate.weights
        return self._x_scaler.to_tensor(rows, weights.dtype, weights.device)

    def _check_query_params(self) -> None:
        # set_params may have changed them since fit.
        rules = {name: self._rules[name] for name in self._query_params}
        validate(type(self).__name__, self.get_params(deep=False), rules)

    def _route(self) -> Route:
        return Route(self.variance, self.std_rtol, self.perturbation_scale)

    def _ensemble(self, link: Link = IDENTITY) -> Ensemble:
        """Members of this fit, with the ``link`` that turns their outputs into answers."""
        members = tuple(member.within(float(self.memory_limit)) for member in self.members_)
        here = all(member.estimate.log_posterior.chunks is None for member in members)
        n_jobs = self.n_jobs if here else 1
        return Ensemble(members, self._route(), n_jobs, bool(self.verbose), link)

    def _moments(self, ensemble: Ensemble, X: Tensor) -> Predictive:
        """Moments of the members' mixture at X (Q, D); a warning counts missed stds."""
        means, variances = ensemble.means(X), ensemble.variances(X)
        self._warn_of_misses(variances)
        return mixture(means, variances, ensemble.noise(X))

    def _warn_of_misses(self, variances: list[Variance]) -> None:
        check_finite([v.value for v in variances], "variances")
        missed = ~torch.stack([v.converged for v in variances]).all(0)
        if not missed.any():
            return
        count, total = int(missed.sum()), len(missed)
        warn(
            f"{count} of {total} standard deviations {of_missed_rows(self, self.members_)}",
            HFLConvergenceWarning,
        )


def _best(members: Sequence[Member]) -> Member:
    return max(members, key=lambda member: member.diagnostics.log_evidence)
