"""Modules of one's own: what works has the dense posterior's std, what cannot is explained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn.utils import parametrizations

from sklearn_hfl import HFLRegressor
from tests import reference

NOISE = 0.3
PLAIN = {
    "prior_precision": 1.0,
    "n_estimators": 1,
    "noise_std": NOISE,
    "normalize_X": False,
    "normalize_y": False,
    "random_state": 0,
}
RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (30, 4))
Y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] / 4
INDICES = np.column_stack([np.arange(30) % 5, RNG.integers(0, 5, (30, 3))]).astype(float)

# Torch says of some layers that it batches them by a loop.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
anywhere = pytest.mark.filterwarnings("ignore:The MAP is not stationary")


class Calling(nn.Module):
    """A module that calls a function of itself."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def chain(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


def linear(n_in, n_out=1, wrap=lambda layer: layer):
    return lambda: wrap(nn.Linear(n_in, n_out))


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.again = self.inner
        self.out = nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.again(self.inner(x).tanh()).tanh())


class Tied(nn.Module):
    """Two layers with one matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)
        self.second.weight = self.first.weight
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.first(x).tanh() * self.second(x))


def autoencoder():
    """A matrix and its transpose, as of an embedding and the output layer of a language model."""
    return Calling(
        lambda m, x: m.out((x @ m.down.weight.T).tanh() @ m.down.weight),
        down=nn.Linear(4, 2, bias=False),
        out=nn.Linear(4, 1),
    )


def sequence(part, read):
    """A layer that sees the four features as a sequence of four vectors."""
    return lambda: Calling(
        lambda m, x: m.out(read(m.part, m.spread(x[:, :, None]))),
        spread=nn.Linear(1, 4),
        part=part(),
        out=nn.Linear(4, 1),
    )


def attention():
    return nn.MultiheadAttention(4, 2, batch_first=True)


def encoder(**params):
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, **params)


def attended(part, x):
    return part(x, x, x, need_weights=False)[0].mean(1)


def frozen_norm():
    """Batch norm that knows its statistics."""
    norm = nn.BatchNorm1d(3).eval().requires_grad_(False)
    norm.running_mean += 0.3
    return norm


def looked_up(layer):
    return lambda: Calling(lambda m, x: m.out(m.look(x.long())), look=layer(), out=nn.Linear(3, 1))


def constant_integers():
    scale = nn.Parameter(torch.arange(4), requires_grad=False)
    return Calling(lambda m, x: m.out(x * m.scale), scale=scale, out=nn.Linear(4, 1))


def masked(m, x):
    h = m.inner(x).clone()
    h[:, 0] = 0.0
    return m.out(h.tanh_())


WORKING = {
    "shared layer": Twice,
    "tied weight": Tied,
    "transposed weight": autoencoder,
    "layer norm": chain(linear(4, 3), lambda: nn.LayerNorm(3), linear(3)),
    "group norm": chain(linear(4, 4), lambda: nn.GroupNorm(2, 4), linear(4)),
    "PReLU": chain(linear(4, 3), nn.PReLU, linear(3)),
    "convolution": chain(
        lambda: nn.Unflatten(1, (1, 4)), lambda: nn.Conv1d(1, 3, 2), nn.Flatten, linear(9)
    ),
    "bilinear": lambda: Calling(lambda m, x: m.b(x[:, :2], x[:, 2:]), b=nn.Bilinear(2, 2, 1)),
    "GRU cell": lambda: Calling(
        lambda m, x: m.out(m.cell(x[:, 2:], m.cell(x[:, :2]))),
        cell=nn.GRUCell(2, 3),
        out=nn.Linear(3, 1),
    ),
    "attention": sequence(attention, attended),
    "attention in eval mode": sequence(lambda: attention().eval(), attended),
    "transformer": sequence(lambda: encoder(dropout=0.0), lambda part, x: part(x).mean(1)),
    "transformer in eval mode": sequence(
        lambda: nn.TransformerEncoder(encoder(), 2).eval(), lambda part, x: part(x).mean(1)
    ),
    "weight norm": chain(linear(4, 3, parametrizations.weight_norm), nn.Tanh, linear(3)),
    "spectral norm in eval mode": lambda: chain(
        linear(4, 3, parametrizations.spectral_norm), nn.Tanh, linear(3)
    )().eval(),
    "batch norm, frozen": chain(linear(4, 3), frozen_norm, nn.Tanh, linear(3)),
    "parameter list": lambda: Calling(
        lambda m, x: (x @ m.p[0]).tanh() @ m.p[1],
        p=nn.ParameterList([torch.ones(4, 2) / 4, torch.ones(2, 1)]),
    ),
    "lazy": chain(lambda: nn.LazyLinear(3), nn.Tanh, linear(3)),
    "distances": lambda: Calling(
        lambda m, x: m.out((-torch.cdist(x, m.centres)).exp()),
        centres=nn.Parameter(torch.randn(3, 4)),
        out=nn.Linear(3, 1),
    ),
    "its input changed in place": lambda: Calling(
        lambda m, x: m.out(x.sub_(1.0).tanh_()), out=nn.Linear(4, 1)
    ),
    "ReLU in place": chain(linear(4, 3), lambda: nn.ReLU(inplace=True), linear(3)),
    "hidden units changed in place": lambda: Calling(
        masked, inner=nn.Linear(4, 3), out=nn.Linear(3, 1)
    ),
    "integers, frozen": constant_integers,
    "an unused layer": lambda: Calling(
        lambda m, x: m.out(x), out=nn.Linear(4, 1), unused=nn.Linear(2, 2)
    ),
}
LOOKING_UP = {
    "embedding": looked_up(lambda: chain(lambda: nn.Embedding(5, 3), lambda: Mean(1))()),
    "bag of embeddings": looked_up(lambda: nn.EmbeddingBag(5, 3)),
}


class Mean(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return x.mean(self.dim)


@anywhere
@pytest.mark.parametrize(
    ("make", "rows"),
    [
        *(pytest.param(make, X, id=name) for name, make in WORKING.items()),
        *(pytest.param(make, INDICES, id=name) for name, make in LOOKING_UP.items()),
    ],
)
def test_the_std_is_that_of_the_dense_posterior(make, rows):
    model = HFLRegressor(**PLAIN, module=lambda d, k: make(), max_iter=30).fit(rows, Y)
    module = model.module_
    mean, std = model.predict(rows[:7], return_std="epistemic")
    J = reference.module_jacobian(module, torch.tensor(rows))
    posterior = torch.linalg.inv(J.mT @ J / NOISE**2 + torch.eye(J.shape[1]))
    expected = ((J @ posterior) * J).sum(1).sqrt()[:7]
    assert model.diagnostics_["n_weights"] == J.shape[1]
    assert_allclose(mean, module(torch.tensor(rows[:7])).detach()[:, 0], rtol=1e-10, atol=1e-12)
    assert_allclose(std, expected, rtol=model.std_rtol)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def flow(m, x):
    return m.out(x) if x.sum() > 0 else -m.out(x)


def without_gradient(m, x):
    with torch.no_grad():
        h = m.inner(x)
    return m.out(h.tanh())


def counting(m, x):
    m.calls += 1
    return m.out(x)


def counter():
    module = one_layer(counting)()
    module.register_buffer("calls", torch.zeros(()))
    return module


def remembered():
    """A weight that is also kept where torch does not see it."""
    module = Calling(
        lambda m, x: m.out((x @ m.kept[0].T).tanh()), inner=nn.Linear(4, 3, bias=False)
    )
    module.out = nn.Linear(3, 1)
    module.kept = [module.inner.weight]
    return module


def recurrent(layer):
    return lambda: Calling(
        lambda m, x: m.out(m.rnn(x[:, :, None])[0][:, -1]),
        rnn=layer(1, 3, batch_first=True),
        out=nn.Linear(3, 1),
    )


def one_layer(function, **parts):
    return lambda: Calling(function, out=nn.Linear(4, 1), **{n: p() for n, p in parts.items()})


REFUSED = {
    "GRU": (recurrent(nn.GRU), r"submodule 'rnn' \(GRU\): Batching rule.*loop over nn.GRUCell"),
    "LSTM": (recurrent(nn.LSTM), r"submodule 'rnn' \(LSTM\): Batching rule"),
    "RNN": (recurrent(nn.RNN), r"submodule 'rnn' \(RNN\): Batching rule"),
    "control flow": (
        lambda: nn.Sequential(one_layer(flow)()),
        r"submodule '0' \(Calling\): .*control flow\. Use torch.where",
    ),
    "a number": (
        one_layer(lambda m, x: m.out(x) * x.sum().item()),
        r"calling \.item\(\).*Use torch.where",
    ),
    "its input changed by weights": (
        one_layer(lambda m, x: m.out(x.add_(m.out.bias))),
        "broadcast shape.*without changing tensors in place",
    ),
    "other rows": (
        one_layer(lambda m, x: m.out(m.inner(x) - m.inner(x).mean(0)), inner=linear(4, 4)),
        r"depends on other rows, first seen in submodule 'out' \(Linear\).*its own row",
    ),
    "attention between rows": (
        one_layer(lambda m, x: m.out(m.a(x, x, x)[0]), a=lambda: nn.MultiheadAttention(4, 1)),
        r"depends on other rows, first seen in submodule 'a' \(MultiheadAttention\)",
    ),
    "a layer without gradient": (
        one_layer(without_gradient, inner=linear(4, 4)),
        r"without a gradient, 'inner.weight', .*Freeze",
    ),
    "no gradient": (
        lambda: nn.Sequential(one_layer(lambda m, x: m.out(x).detach())()),
        r"differentiated in submodule '0' \(Calling\): .*remove detach",
    ),
    "no derivative": (
        lambda: nn.Sequential(
            one_layer(lambda m, x: torch.special.zeta(m.out(x).abs() + 2, x[:, :1].abs() + 1))()
        ),
        r"differentiated in submodule '0' \(Calling\): .*'zeta' is not implemented",
    ),
    "a count of calls": (
        lambda: nn.Sequential(counter()),
        r"changes '0.calls' in submodule '0' \(Calling\)",
    ),
    "spectral norm in training mode": (
        chain(linear(4, 3, parametrizations.spectral_norm), linear(3)),
        r"changes '0.parametrizations.weight.0._u' in .*Call \.eval\(\)",
    ),
    "a largest norm": (
        looked_up(lambda: nn.EmbeddingBag(5, 3, max_norm=0.1)),
        r"changes 'look.weight' in submodule 'look' \(EmbeddingBag\)",
    ),
    "the old weight norm": (
        chain(linear(4, 1, nn.utils.weight_norm)),
        r"cannot be copied: .*torch.nn.utils.parametrizations",
    ),
    "a reference to a weight": (remembered, "does not follow its parameters"),
    "a layer in a list": (
        lambda: Calling(lambda m, x: m.out(m.h[0](x)), h=[nn.Linear(4, 4)], out=nn.Linear(4, 1)),
        "same dtype.*register_buffer",
    ),
    "an index too large": (
        looked_up(lambda: nn.EmbeddingBag(2, 3)),
        r"submodule 'look' \(EmbeddingBag\): .*num_embeddings.*Every index in X",
    ),
    "shapes that do not match": (
        chain(linear(4, 3), linear(5)),
        r"submodule '1' \(Linear\): mat1 and mat2 shapes",
    ),
    "complex numbers": (
        one_layer(
            lambda m, x: m.out((x * m.c).abs()),
            c=lambda: nn.Parameter(torch.ones(4, dtype=torch.cfloat)),
        ),
        "complex numbers, 'c'",
    ),
    "single precision": (one_layer(lambda m, x: m.out(x).float()), "returned torch.float32"),
    "all frozen": (lambda: linear(4)().requires_grad_(False), "all of its parameters are frozen"),
    "wrapped": (lambda: nn.DataParallel(nn.Linear(4, 1)), "DataParallel.*original module"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_named(make, message):
    model = HFLRegressor(**PLAIN, module=lambda d, k: make())
    state = torch.get_rng_state()
    make()
    torch.set_rng_state(state)
    with pytest.raises(ValueError, match=message):
        model.fit(INDICES, Y)
    assert torch.equal(torch.get_rng_state(), state)
    assert not hasattr(model, "members_")


def test_indices_must_not_be_standardised():
    model = HFLRegressor(module=lambda d, k: LOOKING_UP["embedding"]())
    with pytest.raises(
        ValueError, match=r"submodule 'look.0' \(Embedding\).*Set normalize_X=False"
    ):
        model.fit(INDICES, Y)


@anywhere
def test_an_index_that_fit_has_not_seen_is_explained():
    factory = LOOKING_UP["embedding"]
    model = HFLRegressor(**PLAIN, module=lambda d, k: factory(), max_iter=3).fit(INDICES, Y)
    with pytest.raises(ValueError, match=r"'look.0' \(Embedding\): index out of range"):
        model.predict(INDICES + 1)


def near(m, x):
    """What torch.cdist computes, but differentiable twice."""
    return m.out((-(x[:, None] - m.centres).square().sum(-1).sqrt()).exp())


def test_without_second_derivatives_the_same_map_is_reached():
    def distances(function):
        centres = nn.Parameter(torch.randn(3, 4))
        return Calling(function, centres=centres, out=nn.Linear(3, 1))

    fused = WORKING["distances"]().function
    once, twice = (
        HFLRegressor(**PLAIN, module=lambda d, k, f=f: distances(f), tol=0.0, max_iter=1000).fit(
            X, Y
        )
        for f in (fused, near)
    )
    networks = [m.members_[0].estimate.log_posterior.network for m in (once, twice)]
    assert [network.twice_differentiable for network in networks] == [False, True]
    assert once.loss_curve_[0] == pytest.approx(twice.loss_curve_[0], rel=1e-10)
    assert once.converged_
    assert_allclose(once.predict(X), twice.predict(X), rtol=1e-4, atol=1e-5)
    assert_allclose(
        once.predict(X, return_std=True)[1], twice.predict(X, return_std=True)[1], rtol=1e-4
    )
