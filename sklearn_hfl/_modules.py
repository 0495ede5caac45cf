"""Modules: torch modules of others, made from a seed, and tried before they are relied on."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_hfl.posterior.network import ModuleNetwork
from sklearn_hfl.posterior.traced import FAILURES, Traced, explained, place, trainable

__all__ = ["copied", "module_start", "seeded"]

# Torch's global generator is one for all threads, and so is the lock on it. A factory may fit
# an estimator with a factory of its own: the same thread may enter again.
_GENERATOR = threading.RLock()

# Calls that must agree with the first: dropout of half the numbers of two rows does so by chance
# in one call of four, in all of them in one module of 4^16.
REPEATS = 16


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for what runs inside, and put them back.

    Layers draw their first weights from them. Fits in other threads wait. What a thread
    that is not ours draws meanwhile comes from our seed, and is drawn again afterwards:
    torch has no generators that belong to a thread.

    Parameters
    ----------
    seed : int
        ≥ 0.
    """
    # torch.manual_seed would seed devices that fork_rng does not put back, now or when they are
    # first used. Those that nobody has used yet are left alone.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    with _GENERATOR, torch.random.fork_rng(devices):
        for generator in (
            torch.default_generator,
            *(torch.cuda.default_generators[d] for d in devices),
        ):
            generator.manual_seed(seed)
        yield


def copied(module: nn.Module) -> nn.Module:
    """Copy a module.

    Parameters
    ----------
    module : torch.nn.Module
        Left unchanged.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        If torch cannot copy it.
    """
    try:
        return copy.deepcopy(module)
    except FAILURES as error:
        raise ValueError(f"module cannot be copied: {explained(error)}") from error


def module_start(
    module: Any, X: Tensor, n_outputs: int, *, standardized: bool = False
) -> tuple[ModuleNetwork, Tensor]:
    """Network and weights of a torch module, which is copied and tried.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, n_features) to (n, n_outputs).
    X : Tensor of shape (n, n_features)
        Rows to try it on.
    n_outputs : int
        Columns that its output must have.
    standardized : bool
        Whether X has been.

    Returns
    -------
    network : ModuleNetwork
        The module in the precision and on the device of X.
    weights : Tensor of shape (P,)
        Its trainable parameters.

    Raises
    ------
    TypeError
        If it is not a torch module.
    ValueError
        If it has no weights, its output is not as expected, or something that a fit does
        with it fails: with the submodule, the cause, and what to do instead.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a callable (n_features, n_outputs) -> torch.nn.Module, "
            f"but it returned {type(module).__name__}."
        )
    # Two rows that differ, where there are any.
    other = int((X[0] != X).any(1).byte().argmax())
    rows = X[[0, other or 1]]
    module = copied(module)
    _check_layers(module, standardized)
    module.to(X)
    if any(is_lazy(parameter) for parameter in module.parameters()):
        _materialize(module, rows)
    _check_weights(module)
    network = ModuleNetwork(module, n_outputs)
    weights = network.packing.pack([p.detach() for p in trainable(module)])
    output = _checked_output(module, rows, n_outputs)
    _check_parameters_reached(network, weights, rows, output)
    _check_derivatives(network, module, weights, rows, output)
    return network, weights


# Layers whose output depends on the other rows, or on chance, have no posterior of one row.
_NORM, _DROPOUT = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd


def _check_layers(module: nn.Module, standardized: bool) -> None:
    for name, tensor in _tensors(module):
        if tensor.is_complex():
            raise ValueError(
                f"module holds complex numbers, {name!r}: the posterior is one of real weights. "
                "Keep real and imaginary part as two parameters, and join them by torch.complex."
            )
    for name, layer in module.named_modules():
        if isinstance(layer, (torch.jit.ScriptModule, nn.DataParallel)):
            raise ValueError(
                f"module is a {type(layer).__name__}{place(name, layer)}, whose parameters cannot "
                "be replaced. Pass the module as it was before it was scripted or wrapped."
            )
        dropout = isinstance(layer, _DROPOUT) and layer.p > 0 and layer.training
        # Without running statistics batch norm looks at the other rows in eval mode too.
        norm = isinstance(layer, _NORM) and (layer.training or layer.running_mean is None)
        if dropout or norm:
            where = f" as submodule {name!r}" if name else ""
            raise ValueError(
                f"module holds {type(layer).__name__}{where}, in training mode: a prediction must "
                "depend on its own row and the weights alone. Call .eval() on a module that is "
                "trained; else use LayerNorm in place of batch norm, and no dropout."
            )
        if standardized and isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            raise ValueError(
                f"module looks up indices{place(name, layer)}, but normalize_X=True standardises "
                "every column of X, those of indices too. Set normalize_X=False, and scale other "
                "columns before, or in the module."
            )


def _materialize(module: nn.Module, rows: Tensor) -> None:
    """Let lazy layers learn their numbers of inputs, and draw their weights."""
    try:
        with torch.no_grad():
            module(rows.clone())
    except FAILURES as error:
        raise ValueError(
            f"module failed on rows of shape {tuple(rows.shape)}: {explained(error)}"
        ) from error


def _check_weights(module: nn.Module) -> None:
    parameters = [p for p in module.parameters() if p.numel()]
    if not parameters:
        raise ValueError("module must have weights to be uncertain about, but it has none.")
    if not any(p.requires_grad for p in parameters):
        raise ValueError(
            "module must have weights to be uncertain about, but all of its parameters are frozen "
            "(requires_grad=False). Call requires_grad_(True) on those that are to be trained, "
            "such as the last layer's."
        )


def _checked_output(module: nn.Module, rows: Tensor, n_outputs: int) -> Tensor:
    """Output (2, n_outputs) of a module that changes none of its tensors on the way."""
    tried = Traced(copy.deepcopy(module))
    before = {name: tensor.clone() for name, tensor in _tensors(tried.module)}
    with torch.no_grad():
        output = tried({}, rows)
        for name, tensor in _tensors(tried.module):
            if name not in before or not _same(tensor, before[name]):
                owner = name.rpartition(".")[0]
                where = place(owner, tried.module.get_submodule(owner))
                raise ValueError(
                    f"module changes {name!r}{where} when it is called, but a prediction must "
                    "depend on its row and the weights alone. Call .eval() on a module that is "
                    "trained; else take out what updates it."
                )
        if not isinstance(output, Tensor):
            raise ValueError(
                f"module must return one Tensor of shape (n, n_outputs), but it returned "
                f"{type(output).__name__}."
            )
        if not all(_same(output, tried({}, rows)) for _ in range(REPEATS)):
            raise ValueError(
                "module gave two outputs for the same rows: a prediction must not depend on "
                "chance. Take out what draws random numbers, such as functional dropout."
            )
    if output.shape != (2, n_outputs):
        raise ValueError(
            f"module must map (n, {rows.shape[1]}) to (n, {n_outputs}), but 2 rows gave an output "
            f"of shape {tuple(output.shape)}."
        )
    if output.dtype != rows.dtype:
        raise ValueError(
            f"module must return the {rows.dtype} of its rows and weights, but it returned "
            f"{output.dtype}. Take out what converts it on the way."
        )
    return output


def _check_parameters_reached(
    network: ModuleNetwork, weights: Tensor, rows: Tensor, output: Tensor
) -> None:
    """Compare the module with itself at many weights at once, by ``torch.func``."""
    # By a little: nothing is known about where else it is defined.
    others = weights + 0.01 * (1 + weights.abs())
    both = torch.stack([weights, others])
    with torch.no_grad():
        expected = torch.stack([output, Traced(network.to_module(others))({}, rows)])
        for X in (rows, rows.expand(2, -1, -1)):
            if not _close(network.forward(both, X), expected):
                raise ValueError(
                    "module does not follow its parameters: other values of them, given by "
                    "torch.func.functional_call, give the outputs of its old ones. Use them as "
                    "they are registered, not by references that are kept elsewhere."
                )


def _check_derivatives(
    network: ModuleNetwork, module: nn.Module, weights: Tensor, rows: Tensor, output: Tensor
) -> None:
    """Differentiate as a fit does, and learn whether the gradient has a derivative."""
    w = weights[None].clone().requires_grad_()
    with torch.enable_grad():
        loss = network.forward(w, rows).square().sum()
        try:
            (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
            outputs, jacobian = network.jacobian(weights, rows)
        except RuntimeError as error:
            raise ValueError(
                f"module cannot be differentiated{_without_derivative(module, rows)}: "
                f"{explained(error)}"
            ) from error
        try:
            torch.autograd.grad(gradient, w, torch.ones_like(gradient))
        except RuntimeError:
            network.twice_differentiable = False
    if not _close(outputs, output):
        raise ValueError(
            f"module answers a row differently beside another{_mixing(module, rows)}: a prediction "
            "must depend on its own row and the weights alone. Let the first axis be that of the "
            "rows everywhere."
        )
    _check_gradients(network, weights, rows, jacobian)


def _check_gradients(
    network: ModuleNetwork, weights: Tensor, rows: Tensor, jacobian: Tensor
) -> None:
    """Find weights that change the output, but have no gradient: as if they were frozen."""
    groups = network.weight_groups()
    still = (jacobian == 0).all(0).all(0)
    for group, name in enumerate(groups.names):
        own = (groups.labels == group).to(weights.device)
        if still[own].all():
            # Small, so that no unit which is off comes on.
            step = torch.finfo(weights.dtype).eps ** 0.25 * (1 + weights.abs()) * own
            with torch.no_grad():
                before, after = network.forward(torch.stack([weights, weights + step]), rows)
            if not _close(after, before):
                raise ValueError(
                    f"module has weights that change its output without a gradient, {name!r}: it "
                    "goes through no_grad or detach. Freeze what is not to be trained by "
                    "requires_grad_(False), or take these out."
                )


# --------------------------------------------------------------- where a fault is


def _answers(module: nn.Module, rows: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Each submodule with what it answers, those inside before those around them."""
    answers: list[tuple[str, nn.Module, Tensor]] = []
    traced = Traced(module)
    for name, part in traced.module.named_modules():

        def keep(part: nn.Module, _: Any, answer: Any, name: str = name) -> None:
            first = answer[0] if isinstance(answer, tuple) and answer else answer
            if isinstance(first, Tensor):
                answers.append((place(name, part), part, first))

        part.register_forward_hook(keep)
    traced({}, rows)
    return answers


def _without_derivative(module: nn.Module, rows: Tensor) -> str:
    for where, part, answer in _answers(module, rows):
        if not answer.requires_grad and not trainable(part):
            continue
        try:
            torch.autograd.grad(
                answer.sum(), trainable(module), allow_unused=True, retain_graph=True
            )
        except RuntimeError:
            return where
    return ""


def _mixing(module: nn.Module, rows: Tensor) -> str:
    with torch.no_grad():
        beside, alone = _answers(module, rows), _answers(module, rows[:1])
    for (where, _, both), (_, _, one) in zip(beside, alone, strict=False):
        if where and both.shape[1:] == one.shape[1:] and not _close(both[: len(one)], one):
            return f", first seen{where}"
    return ""


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _same(one: Any, other: Any) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two answers differ by rounding only, in units of the largest."""
    finite = other[other.isfinite()]
    atol = torch.finfo(other.dtype).eps ** 0.5 * float(finite.abs().max() if len(finite) else 1.0)
    return torch.allclose(one, other, rtol=0, atol=atol, equal_nan=True)
