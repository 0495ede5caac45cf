"""The paper's comparison: Hessian-free Laplace against dense Laplace and competing methods.

    python benchmarks/paper.py agreement    # the same weights, std against the dense Hessian's
    python benchmarks/paper.py coverage      # in and out of the gap; NLPD, CRPS, time, memory
    python benchmarks/paper.py plateau      # λ over six decades

Tasks: the paper's synthetic tasks, quadratic and sine (noise 0.1; the sine's inputs leave a gap),
and UCI data. ``agreement`` and ``plateau`` take one draw of each, or standard split 0, and compare
methods for the same weights: defaults with variance="network", whose MAP is a strict minimum where
one is found; "exact" is the dense Hessian. UCI data in ``plateau`` have prior precision 1 and a
noise of 0.2 of y's SD. ``coverage`` takes ``--seeds`` draws, and ``--splits`` standard and gap
splits of UCI data. The Laplace methods share a fit; the ensemble, dropout and the GP do not.
Kronecker, diagonal and last layer are computed densely here, from the Gauss-Newton matrix of the
same MAP.
Writes CSV files, and pictures into docs/images.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from authors import QUERIES, TRUTH, definite
from authors import rows as authors_rows
from joblib import Parallel, delayed
from matplotlib.ticker import NullFormatter
from peers.decomposed import OTHERS
from reporting import heading, machine, normal_scores, peak_above, save

from sklearn_hfl import HFLRegressor
from sklearn_hfl.metrics import crps_gaussian, negative_log_predictive_density
from sklearn_hfl.optim.krylov import krylov_subspace
from sklearn_hfl.optim.linear_response import amortized_response, linear_response
from sklearn_hfl.optim.network_response import network_response
from sklearn_hfl.optim.perturbed_optima import perturbed_optima
from sklearn_hfl.posterior.functional import Prediction
from sklearn_hfl.uncertainty.exact import dense_ggn, dense_hessian, exact_covariance
from sklearn_hfl.uncertainty.variance import accepted

IMAGES = Path("docs/images")
UCI = ("yacht", "energy", "concrete")
GAP = (QUERIES > -0.7) & (QUERIES < 0.35)
NOISE = 0.1
# What speed.py builds for queries without data.
RTOL = 0.01
# λ in units of 1 / std: how many posterior standard deviations the optimum moves.
STRENGTHS = np.logspace(-5, 1, 25)
PLATEAU = 0.01
MAX_SWEPT = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("agreement", "coverage", "plateau"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/uci"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    began = time.perf_counter()
    {"agreement": agreement, "coverage": coverage, "plateau": plateau}[arguments.part](arguments)
    print(f"\n{time.perf_counter() - began:.0f} s in all")


def tasks(folder: Path) -> list[str]:
    return [*TRUTH, *(name for name in UCI if (folder / f"{name}.npz").exists())]


def task(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, and queries."""
    if name in TRUTH:
        return *authors_rows(name, seed=0), QUERIES[:, None]
    X, y, test = split(name, folder, "standard", 0)
    return X[~test], y[~test], X[test]


def split(
    name: str, folder: Path, family: str, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = np.load(folder / f"{name}.npz")
    return data["X"], data["y"].ravel(), data[f"test_mask_{family}"][number]


# ------------------------------------------------------------ one MAP, many variances


class AtTheMap:
    """A MAP and each method's variances at the same queries, in standardised units."""

    def __init__(
        self, X: np.ndarray, y: np.ndarray, Q: np.ndarray, seed: int = 0, **params: object
    ) -> None:
        self.model = HFLRegressor(
            variance="network", n_estimators=1, random_state=seed, **params
        ).fit(X, y)
        self.estimate = self.model.members_[0].estimate
        self.log_posterior, self.weights = self.estimate.log_posterior, self.estimate.weights
        self.prediction = Prediction(self.log_posterior.network, self.model._queries(Q))
        self.gradient = self.prediction.gradient(self.weights)
        self.whitened = self.estimate.scale[:, None] * self.gradient
        self.unit = float(self.model._y_scaler.scale[0])
        self.damped = False

    @property
    def methods(self) -> dict[str, Callable[[], torch.Tensor]]:
        """Variances of the queries by each method, from the MAP alone."""
        last = slice(-self.log_posterior.network.layer_sizes[-2] - 1, None)
        return {
            "HFL network, one side": lambda: self.moved(0.1)[1],
            "HFL network": self.network,
            "HFL linearized": lambda: linear_response(self.estimate, self.whitened, RTOL).variance,
            "HFL amortized": self.amortized,
            "dense Hessian": self.hessian,
            "dense Gauss-Newton": lambda: self.by(self.ggn()),
            "Kronecker": lambda: self.by(self.kronecker()),
            "diagonal": lambda: (self.gradient.square().mT / self.ggn().diagonal()).sum(1),
            "last layer": lambda: self.by(self.ggn(), last),
        }

    def by(self, matrix: torch.Tensor, keep: slice = slice(None)) -> torch.Tensor:
        return exact_covariance(matrix[keep, keep], self.gradient[keep]).diagonal()

    def ggn(self) -> torch.Tensor:
        return dense_ggn(self.log_posterior, self.weights)

    def hessian(self) -> torch.Tensor:
        matrix, self.damped = definite(dense_hessian(self.log_posterior, self.weights))
        return self.by(matrix)

    def kronecker(self) -> torch.Tensor:
        """Blocks N E[a aᵀ] ⊗ E[Λ g gᵀ] of each layer's weights, biases separate (K-FAC)."""
        network, prior = self.log_posterior.network, self.log_posterior.prior.precision
        jacobian = network.jacobian(self.weights, self.log_posterior.X)[1][:, 0]
        precision = self.model.noise_std_**-2 * self.unit**2
        parts = network.packing.unpack(jacobian)
        blocks = []
        for of_weights, g in zip(parts[::2], parts[1::2], strict=True):
            a = torch.einsum("no,noi->ni", g, of_weights) / g.square().sum(1, keepdim=True)
            of_biases = precision * g.mT @ g
            blocks += [torch.kron(of_biases / len(a), a.mT @ a), of_biases]
        return torch.block_diag(*blocks) + torch.diag(prior)

    def network(self) -> torch.Tensor:
        optima = perturbed_optima(self.estimate, self.prediction, "network", rtol=RTOL)
        assert optima.network is not None
        self.strength = optima.network.strength * optima.linear.variance.sqrt()
        self.converged = accepted(optima, RTOL)
        return torch.where(self.converged, optima.network.variance, optima.linear.variance)

    def amortized(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        subspace = krylov_subspace(self.estimate.curvature(), generator, beyond=2 * RTOL)
        estimate = replace(self.estimate, subspace=subspace).without_data(RTOL)
        return amortized_response(estimate, self.whitened).variance

    def moved(self, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Refits at λ = scale / std: central and one-sided differences."""
        linear = linear_response(self.estimate, self.whitened, rtol=1e-3)
        found = network_response(self.estimate, self.prediction, linear, 1e-3, (scale,))
        index = torch.arange(len(found.plus))
        start = self.prediction.paired(self.weights.expand(len(index), -1), index)
        one_side = (self.prediction.paired(found.plus, index) - start) / found.strength
        return found.variance, one_side


def agreement(arguments: argparse.Namespace) -> None:
    names, table = tasks(arguments.data), []
    figure, axes = plt.subplots(1, len(names), figsize=(3 * len(names), 3.2), layout="constrained")
    for ax, name in zip(axes, names, strict=True):
        X, y, Q = task(name, arguments.data)
        at = AtTheMap(X, y, Q)
        found, seconds, memory = {}, {}, {}
        for method, variance in at.methods.items():
            with peak_above() as peak:
                began = time.perf_counter()
                found[method] = variance().clamp_min(0).sqrt().numpy() * at.unit
                seconds[method] = time.perf_counter() - began
            memory[method] = 1000 * peak[0]
        heading(
            f"Agreement: {name}, {len(X)} rows, {len(at.weights)} weights, {len(Q)} queries, "
            f"{at.converged.double().mean():.0%} of refits converged"
            f"{', Hessian damped' if at.damped else ''}"
        )
        print(
            f"{'std, relative difference':24s}{'to the Hessian: median':>23s}{'worst':>9s}"
            f"{'to Gauss-Newton: median':>25s}{'worst':>9s}{'seconds':>9s}{'MB':>6s}"
        )
        for method, std in found.items():
            gaps = [
                np.abs(std / found[reference] - 1)
                for reference in ("dense Hessian", "dense Gauss-Newton")
            ]
            figures = [figure for gap in gaps for figure in (np.median(gap), gap.max())]
            print(
                f"{method:24s}{figures[0]:23.1e}{figures[1]:9.1e}{figures[2]:25.1e}"
                f"{figures[3]:9.1e}{seconds[method]:9.2f}{memory[method]:6.0f}",
                flush=True,
            )
            table += [
                {"task": name, "method": method, "query": i, "std": s, "exact": e}
                for i, (s, e) in enumerate(zip(std, found["dense Hessian"], strict=True))
            ]
        draw_agreement(ax, f"{name}, indefinite" if at.damped else name, found)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(IMAGES / "paper_agreement.png", dpi=130)
    save("paper-agreement.csv", table)


def draw_agreement(ax: plt.Axes, name: str, found: dict[str, np.ndarray]) -> None:
    exact = found["dense Hessian"]
    ends = exact.min() / 1.5, exact.max() * 1.5
    ax.plot(ends, ends, color="0.7", lw=1, zorder=0)
    # Ours last, on top; "amortized" would cover "linearized".
    shown = ["last layer", "diagonal", "Kronecker"]
    shown += ["HFL linearized", "HFL network, one side", "HFL network"]
    for i, method in enumerate(shown):
        marker = "o" if method.startswith("HFL") else "x"
        ax.loglog(exact, found[method], marker, ms=3, color=f"C{(5 - i) % 6}", label=method)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.set(title=name, xlabel="std, dense Hessian")
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel("std of each method")


# -------------------------------------------------------------------------- plateau


def plateau(arguments: argparse.Namespace) -> None:
    names, table = tasks(arguments.data), []
    heading("Plateau: λ over six decades, share of its range where every std is within 1 %")
    print(
        f"{'':12s}{'queries':>8s}{'converged':>11s}{'both sides: decades':>21s}{'from':>9s}"
        f"{'to':>9s}{'one side: decades':>19s}{'automatic λ std':>22s}{'worst error there':>19s}"
    )
    figure, axes = plt.subplots(
        1, len(names), figsize=(3 * len(names), 3.2), sharey=True, layout="constrained"
    )
    for ax, name in zip(axes, names, strict=True):
        X, y, Q = task(name, arguments.data)
        # At the precisions that the evidence finds, yacht has no Laplace approximation: its
        # Hessian is indefinite.
        given = {} if name in TRUTH else {"prior_precision": 1.0, "noise_std": 0.2 * y.std()}
        at = AtTheMap(X, y, Q[:MAX_SWEPT] if given else Q, max_iter=4000, **given)
        exact, automatic = at.hessian().sqrt(), at.network()
        both_sides, one_side = zip(*(at.moved(scale) for scale in STRENGTHS), strict=True)
        errors = {
            side: (torch.stack(variances).clamp_min(0).sqrt() / exact - 1).abs().numpy()
            for side, variances in (("both sides", both_sides), ("one side", one_side))
        }
        chosen = at.strength[at.converged].numpy()
        chosen_error = (automatic.sqrt() / exact - 1).abs()[at.converged].numpy()
        spans = {side: widest(STRENGTHS, error.max(1)) for side, error in errors.items()}
        (low, high), decades = spans["both sides"], [np.log10(b / a) for a, b in spans.values()]
        print(
            f"{name:12s}{len(exact):8d}{at.converged.double().mean():11.1%}{decades[0]:21.1f}"
            f"{low:9.1e}{high:9.1e}{decades[1]:19.1f}{chosen.min():11.0e} to {chosen.max():5.0e}"
            f"{chosen_error.max():19.1e}",
            flush=True,
        )
        for side, error in errors.items():
            table += [
                {"task": name, "side": side, "scale": scale, "median": np.median(row),
                 "worst": row.max()}
                for scale, row in zip(STRENGTHS, error, strict=True)
            ]  # fmt: skip
        draw_plateau(ax, name, errors, chosen, chosen_error)
    axes[0].set_ylabel("relative error of std")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(IMAGES / "paper_plateau.png", dpi=130)
    save("paper-plateau.csv", table)


def widest(scales: np.ndarray, worst: np.ndarray) -> tuple[float, float]:
    """Longest run of neighbouring scales where the worst query is within 1 %."""
    runs, start = [(scales[0], scales[0])], None
    for scale, good in zip(scales, worst <= PLATEAU, strict=True):
        start = (start or scale) if good else None
        if start:
            runs.append((start, scale))
    return max(runs, key=lambda run: run[1] / run[0])


def draw_plateau(
    ax: plt.Axes,
    name: str,
    errors: dict[str, np.ndarray],
    chosen: np.ndarray,
    chosen_error: np.ndarray,
) -> None:
    for color, (side, error) in zip(("C0", "C1"), errors.items(), strict=True):
        error = np.maximum(error, 1e-8)
        ax.loglog(STRENGTHS, error.max(1), color=color, label=f"{side}, worst query")
        ax.loglog(STRENGTHS, np.median(error, 1), color=color, ls=":", label=f"{side}, median")
    ax.plot(chosen, np.maximum(chosen_error, 1e-8), "k|", ms=8, label="automatic λ")
    ax.axhline(PLATEAU, color="0.7", lw=1)
    ax.set(title=name, xlabel="λ × std", ylim=(5e-9, 10))


# ------------------------------------------------------------------------- coverage


def coverage(arguments: argparse.Namespace) -> None:
    jobs = [(name, "", seed) for name in TRUTH for seed in range(arguments.seeds)] + [
        (name, family, number)
        for name in tasks(arguments.data)[len(TRUTH) :]
        for family in ("standard", "gap")
        for number in range(arguments.splits)
    ]
    found = Parallel(n_jobs=arguments.jobs)(delayed(scores)(arguments.data, *job) for job in jobs)
    table = [row for rows in found for row in rows]
    save("paper-coverage.csv", table)
    for name in dict.fromkeys(row["task"] for row in table):
        chosen = [row for row in table if row["task"] == name]
        count = sum(row["method"] == "HFL network" for row in chosen)
        heading(f"Coverage: {name}, means of {count}, medians of seconds and MB")
        columns = [key for key in chosen[0] if key not in ("task", "method")]
        print(f"{'':24s}" + "".join(f"{key:>12s}" for key in columns))
        for method in dict.fromkeys(row["method"] for row in chosen):
            rows = [row for row in chosen if row["method"] == method]
            cells = ""
            for key in columns:
                centre = np.median if key in ("seconds", "MB") else np.mean
                cells += f"{centre([row[key] for row in rows]):12.3f}"
            print(f"{method:24s}{cells}", flush=True)


def scores(folder: Path, name: str, family: str, number: int) -> list[dict[str, object]]:
    """Every method on one draw; seconds and MB from the data to the last std."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if name in TRUTH:
        X, y = authors_rows(name, number)
        Q, truth = QUERIES[:, None], TRUTH[name](QUERIES)
        target = truth + NOISE * np.random.default_rng([number, 1]).standard_normal(len(Q))
    else:
        data, values, test = split(name, folder, family, number)
        X, y, Q, truth, target = data[~test], values[~test], data[test], None, values[test]
    rows: list[dict[str, object]] = []

    def report(
        method: str, mean: np.ndarray, epistemic: np.ndarray, noise: object, spent: float, mb: float
    ) -> None:
        std = np.hypot(epistemic, noise)
        row: dict[str, object] = {"task": f"{name} {family}".strip(), "method": method}
        if truth is not None:
            inside = np.abs(mean - truth) <= 1.96 * epistemic
            row |= {"truth 95 %": inside.mean()} | (
                {"in the gap": inside[GAP].mean()} if name == "sine" else {}
            )
        rows.append(row | {
            "y 90 %": normal_scores(target, mean, std)[1],
            "NLPD": negative_log_predictive_density(target, mean, std),
            "CRPS": crps_gaussian(target, mean, std), "seconds": spent, "MB": mb,
        })  # fmt: skip

    with peak_above() as peak:
        began = time.perf_counter()
        at = AtTheMap(X, y, Q, seed=number)
        fitting, of_fit = time.perf_counter() - began, 1000 * peak[0]
    mean = at.model.predict(Q)
    for method, variance in at.methods.items():
        with peak_above() as peak:
            began = time.perf_counter()
            epistemic = variance().clamp_min(1e-12).sqrt().numpy() * at.unit
            spent = fitting + time.perf_counter() - began
        report(method, mean, epistemic, at.model.noise_std_, spent, max(of_fit, 1000 * peak[0]))
    for method, fit in OTHERS.items():
        with peak_above() as peak:
            began = time.perf_counter()
            mean, (epistemic, noise) = fit(X, y, number)(Q)
            spent = time.perf_counter() - began
        report(method, mean, epistemic, noise, spent, 1000 * peak[0])
    return rows


if __name__ == "__main__":
    main()
