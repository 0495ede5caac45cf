"""Modules: user-supplied torch modules, created from a seed and checked before a fit."""

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

# All threads share torch's global generator, and so its lock. It is reentrant, since a factory
# may fit an estimator that has a factory.
_GENERATOR = threading.RLock()

# Calls that must agree with the first: with dropout of one number in each of two rows, one call
# in four agrees by chance, and all of them in one module of 4^16.
N_REPEATS = 16
# Relative step to other weights, small since the module may be undefined far from its own.
WEIGHT_STEP = 0.01


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for the body of the context, and restore them.

    Layers draw their initial weights from them. Fits in other threads wait. Draws by a thread
    outside this package meanwhile come from this seed, and are repeated afterwards: torch has
    no generators of a thread's own.

    Parameters
    ----------
    seed : int
        ≥ 0.
    """
    # torch.manual_seed would also seed devices that fork_rng does not restore, now or when they
    # are first used. Devices not yet in use are left alone.
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
    """Network and weights of a torch module, which is copied and checked.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (n, n_features) to (n, n_outputs).
    X : Tensor of shape (n, n_features)
        Rows for the checks.
    n_outputs : int
        Required columns of its output.
    standardized : bool
        Whether X is standardised.

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
        If it has no weights, its output is not as expected, or an operation that a fit needs
        fails; the message names the submodule, the cause, and a remedy.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a callable (n_features, n_outputs) -> torch.nn.Module, "
            f"but it returned {type(module).__name__}."
        )
    # Two rows that differ, if there are any.
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


# Layers whose output at a row depends on the other rows, or on chance.
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
                "be replaced. Pass the original module, not scripted or wrapped."
            )
        dropout = isinstance(layer, _DROPOUT) and layer.p > 0 and layer.training
        # Without running statistics batch norm uses the other rows in eval mode too.
        norm = isinstance(layer, _NORM) and (layer.training or layer.running_mean is None)
        if dropout or norm:
            where = f" as submodule {name!r}" if name else ""
            raise ValueError(
                f"module holds {type(layer).__name__}{where}, in training mode: a prediction must "
                "depend on its own row and the weights alone. Call .eval() on a trained module; "
                "otherwise use LayerNorm instead of batch norm, and no dropout."
            )
        if standardized and isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            raise ValueError(
                f"module looks up indices{place(name, layer)}, but normalize_X=True standardises "
                "all columns of X, including indices. Set normalize_X=False, and scale the other "
                "columns beforehand or in the module."
            )


def _materialize(module: nn.Module, rows: Tensor) -> None:
    """Call lazy layers once, which sets their numbers of inputs and draws their weights."""
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
    """Output (2, n_outputs) of a module, which must not change its own tensors."""
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
                    "depend on its row and the weights alone. Call .eval() on a trained module; "
                    "otherwise remove the update."
                )
        if not isinstance(output, Tensor):
            raise ValueError(
                f"module must return one Tensor of shape (n, n_outputs), but it returned "
                f"{type(output).__name__}."
            )
        if not all(_same(output, tried({}, rows)) for _ in range(N_REPEATS)):
            raise ValueError(
                "module gave two outputs for the same rows: a prediction must not depend on "
                "chance. Remove operations that draw random numbers, such as functional dropout."
            )
    if output.shape != (2, n_outputs):
        raise ValueError(
            f"module must map (n, {rows.shape[1]}) to (n, {n_outputs}), but 2 rows gave an output "
            f"of shape {tuple(output.shape)}."
        )
    if output.dtype != rows.dtype:
        raise ValueError(
            f"module must return the {rows.dtype} of its rows and weights, but it returned "
            f"{output.dtype}. Remove the conversion."
        )
    return output


def _check_parameters_reached(
    network: ModuleNetwork, weights: Tensor, rows: Tensor, output: Tensor
) -> None:
    """Check that ``torch.func`` gives the module's outputs at several weights at once."""
    others = weights + WEIGHT_STEP * (1 + weights.abs())
    both = torch.stack([weights, others])
    with torch.no_grad():
        expected = torch.stack([output, Traced(network.to_module(others))({}, rows)])
        for X in (rows, rows.expand(2, -1, -1)):
            if not _close(network.forward(both, X), expected):
                raise ValueError(
                    "module does not follow its parameters: with other values of them, given by "
                    "torch.func.functional_call, its outputs are not those of these values. Use "
                    "parameters as they are registered, not by references kept elsewhere."
                )


def _check_derivatives(
    network: ModuleNetwork, module: nn.Module, weights: Tensor, rows: Tensor, output: Tensor
) -> None:
    """Differentiate as a fit does, and find out whether the gradient has a derivative."""
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
            f"module's output at a row depends on other rows{_mixing(module, rows)}: a prediction "
            "must depend on its own row and the weights alone. Keep rows on the first axis in all "
            "operations."
        )
    _check_gradients(network, weights, rows, jacobian)


def _check_gradients(
    network: ModuleNetwork, weights: Tensor, rows: Tensor, jacobian: Tensor
) -> None:
    """Find weights that change the output but have zero gradient, as if they were frozen."""
    groups = network.weight_groups()
    still = (jacobian == 0).all(0).all(0)
    for group, name in enumerate(groups.names):
        own = (groups.labels == group).to(weights.device)
        if still[own].all():
            # Small, so that no inactive unit becomes active.
            step = torch.finfo(weights.dtype).eps ** 0.25 * (1 + weights.abs()) * own
            with torch.no_grad():
                before, after = network.forward(torch.stack([weights, weights + step]), rows)
            if not _close(after, before):
                raise ValueError(
                    f"module has weights that change its output without a gradient, {name!r}, "
                    "because of no_grad or detach. Freeze weights that are not to be trained by "
                    "requires_grad_(False), or remove no_grad and detach."
                )


# ------------------------------------------------------- where an error comes from


def _answers(module: nn.Module, rows: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Each submodule with its output, inner ones before those that contain them."""
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
    """Whether two outputs differ by rounding only, relative to the largest."""
    finite = other[other.isfinite()]
    atol = torch.finfo(other.dtype).eps ** 0.5 * float(finite.abs().max() if len(finite) else 1.0)
    return torch.allclose(one, other, rtol=0, atol=atol, equal_nan=True)
