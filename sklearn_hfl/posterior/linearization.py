"""Linearization: a network around one weight vector, by products with its Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sklearn_hfl.posterior.packing import Packing

__all__ = [
    "MAX_JACOBIAN_OUTPUTS",
    "JacobianLinearization",
    "Linearization",
    "PerceptronLinearization",
]

# With more outputs than this, going layer by layer is faster than with the Jacobian
# (docs/design/subspace.md, benchmarks/products.py).
MAX_JACOBIAN_OUTPUTS = 2
# Columns of a block of the matrix, of which only the upper triangle is computed.
MATRIX_COLUMNS = 200
# Numbers in a part of the Jacobian that holds some of its columns: what a cache holds.
COLUMN_NUMBERS = 1_000_000
# Relative error to which the prior variances of a layer are the products of one number for each
# unit and one for each input, or in units of eps where that is more; it only allows for rounding.
OUTER_RTOL, OUTER_ROUNDING = 1e-12, 8


class Linearization(Protocol):
    """f(X; θ + δ) ≈ f(X; θ) + J δ at N rows, with K outputs and P weights."""

    @property
    def outputs(self) -> Tensor:
        """f(X; θ), (N, K)."""

    def rows(self, rows: slice) -> Linearization:
        """The linearisation at some of the rows."""

    def to(self, dtype: torch.dtype) -> Linearization:
        """The same linearisation in another precision."""

    def dense(self) -> JacobianLinearization:
        """The linearisation that holds J itself."""

    def forward(self, V: Tensor) -> Tensor:
        """J V, (N, m, K), for V (P, m)."""

    def backward(self, U: Tensor) -> Tensor:
        """Jᵀ U, (P, m), for U (N, m, K)."""

    def diagonal(self, curve: Callable[[Tensor], Tensor]) -> Tensor:
        """Diagonal (P,) of Jᵀ Λ J, where ``curve`` maps U (N, m, K) to Λ U."""

    def gram(self, weight: Tensor) -> Tensor:
        """J diag(weight) Jᵀ of each row, (N, K, K), for weight (P,)."""

    def kernel(self, weight: Tensor) -> Tensor:
        """J diag(weight) Jᵀ of all rows, (N, K, N, K), for weight (P,)."""

    def columns(self) -> Iterator[Tensor]:
        """J in parts (N, K, p), some of the weights at a time."""

    def matrix(self, curve: Callable[[Tensor], Tensor]) -> Tensor:
        """Jᵀ Λ J, (P, P), for symmetric Λ, where ``curve`` maps U (N, m, K) to Λ U."""


@dataclass(frozen=True)
class JacobianLinearization:
    """J itself, for networks of unknown structure.

    Parameters
    ----------
    outputs : Tensor of shape (N, K)
        f.
    jacobian : Tensor of shape (N, K, P)
        J.
    """

    outputs: Tensor
    jacobian: Tensor

    def rows(self, rows: slice) -> JacobianLinearization:
        return JacobianLinearization(self.outputs[rows], self.jacobian[rows])

    def to(self, dtype: torch.dtype) -> JacobianLinearization:
        return JacobianLinearization(self.outputs.to(dtype), self.jacobian.to(dtype))

    def dense(self) -> JacobianLinearization:
        return self

    def forward(self, V: Tensor) -> Tensor:
        return (self.jacobian @ V).mT

    def backward(self, U: Tensor) -> Tensor:
        return self.jacobian.flatten(0, 1).mT @ U.mT.flatten(0, 1)

    def diagonal(self, curve: Callable[[Tensor], Tensor]) -> Tensor:
        return (self.jacobian * curve(self.jacobian.mT).mT).sum((0, 1))

    def gram(self, weight: Tensor) -> Tensor:
        return (self.jacobian * weight) @ self.jacobian.mT

    def kernel(self, weight: Tensor) -> Tensor:
        n, k, _ = self.jacobian.shape
        flat = self.jacobian.flatten(0, 1)
        return ((flat * weight) @ flat.mT).view(n, k, n, k)

    def columns(self) -> Iterator[Tensor]:
        yield self.jacobian

    def matrix(self, curve: Callable[[Tensor], Tensor]) -> Tensor:
        left, right = self.jacobian.flatten(0, 1).mT, curve(self.jacobian.mT).mT.flatten(0, 1)
        matrix = left.new_empty(len(left), len(left))
        for start in range(0, len(left), MATRIX_COLUMNS):  # its upper triangle
            columns = slice(start, start + MATRIX_COLUMNS)
            torch.mm(left[columns], right[:, start:], out=matrix[columns, start:])
        return matrix.triu_() + matrix.triu(1).mT


@dataclass(frozen=True)
class PerceptronLinearization:
    """A perceptron's activations and slopes: products go layer by layer, without forming J.

    A product costs about as much as two passes of the network, K times less than with J.

    Parameters
    ----------
    packing : Packing
        Where W and b of each layer lie.
    layers : tuple of (Tensor, Tensor)
        W (n_out, n_in) and b (n_out,) of each.
    inputs : tuple of Tensor of shape (N, n_in)
        Inputs of each layer.
    slopes : tuple of Tensor of shape (N, n_out)
        Derivative of the activation after each layer but the last.
    outputs : Tensor of shape (N, K)
        f.
    """

    packing: Packing
    layers: tuple[tuple[Tensor, Tensor], ...]
    inputs: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    outputs: Tensor

    def rows(self, rows: slice) -> PerceptronLinearization:
        return PerceptronLinearization(
            self.packing,
            self.layers,
            tuple(a[rows] for a in self.inputs),
            tuple(s[rows] for s in self.slopes),
            self.outputs[rows],
        )

    def to(self, dtype: torch.dtype) -> PerceptronLinearization:
        return PerceptronLinearization(
            self.packing,
            tuple((W.to(dtype), b.to(dtype)) for W, b in self.layers),
            tuple(a.to(dtype) for a in self.inputs),
            tuple(s.to(dtype) for s in self.slopes),
            self.outputs.to(dtype),
        )

    def _deltas(self) -> Iterator[tuple[int, Tensor]]:
        """Layers, the last first, and delta (N, K, out) of each.

        It is the derivative of the outputs with respect to the layer's pre-activations.
        """
        n, k = self.outputs.shape
        delta = torch.eye(k).to(self.outputs).expand(n, k, k)
        for layer in reversed(range(len(self.layers))):
            yield layer, delta
            if layer:
                delta = (delta @ self.layers[layer][0]) * self.slopes[layer - 1][:, None, :]

    def dense(self) -> JacobianLinearization:
        n, k = self.outputs.shape
        jacobian = self.outputs.new_empty(n, k, self.packing.n_weights)
        # dW = delta ⊗ a and db = delta.
        end = self.packing.n_weights
        for layer, delta in self._deltas():
            W, b = self.layers[layer]
            start_b, start = end - b.numel(), end - b.numel() - W.numel()
            jacobian[..., start_b:end] = delta
            torch.mul(
                delta[..., :, None],
                self.inputs[layer][:, None, None, :],
                out=jacobian[..., start:start_b].view(n, k, *W.shape),
            )
            end = start
        return JacobianLinearization(self.outputs, jacobian)

    def forward(self, V: Tensor) -> Tensor:
        tensors = self.packing.unpack(V.mT)
        change: Tensor | None = None
        for layer, (dW, db) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            a = self.inputs[layer]
            # d(W a + b) = dW a + db + W da, for all m changes in one matrix product.
            own = (a @ dW.reshape(-1, a.shape[1]).mT).view(len(a), *db.shape).add_(db)
            if change is not None:
                own.add_(change.mul_(self.slopes[layer - 1][:, None, :]) @ self.layers[layer][0].mT)
            change = own
        assert change is not None
        return change

    def backward(self, U: Tensor) -> Tensor:
        n, m, _ = U.shape
        parts: list[Tensor] = []
        delta = U
        for layer in reversed(range(len(self.layers))):
            W, _ = self.layers[layer]
            flat = delta.reshape(n, -1)
            dW = flat.mT @ self.inputs[layer]
            parts += [flat.sum(0).view(m, W.shape[0]), dW.view(m, W.numel())]
            if layer:
                delta = (delta @ W).mul_(self.slopes[layer - 1][:, None, :])
        return torch.cat(parts[::-1], dim=1).mT

    def diagonal(self, curve: Callable[[Tensor], Tensor]) -> Tensor:
        # The derivative with respect to a weight is that with respect to its unit's
        # pre-activation, delta (N, out, K), times the input that the weight multiplies.
        n, k = self.outputs.shape
        delta = torch.eye(k).to(self.outputs).expand(n, k, k)
        parts: list[Tensor] = []
        for layer in reversed(range(len(self.layers))):
            squares = (delta * curve(delta)).sum(-1)
            parts += [squares.sum(0), (squares.mT @ self.inputs[layer].square()).reshape(-1)]
            if layer:
                W, _ = self.layers[layer]
                delta = (W.mT @ delta) * self.slopes[layer - 1][:, :, None]
        return torch.cat(parts[::-1])

    def gram(self, weight: Tensor) -> Tensor:
        n, k = self.outputs.shape
        total = self.outputs.new_zeros(n, k, k)
        end = len(weight)
        for layer, delta in self._deltas():
            W, b = self.layers[layer]
            middle, start = end - b.numel(), end - b.numel() - W.numel()
            # All weights of a unit share its delta (N, K, out).
            of_unit = self.inputs[layer].square() @ weight[start:middle].view(W.shape).mT
            total += (delta * (of_unit + weight[middle:end])[:, None, :]) @ delta.mT
            end = start
        return total

    def kernel(self, weight: Tensor) -> Tensor:
        n, k = self.outputs.shape
        total = self.outputs.new_zeros(n * k, n * k)
        end = len(weight)
        for layer, delta in self._deltas():
            W, b = self.layers[layer]
            middle, start = end - b.numel(), end - b.numel() - W.numel()
            of_unit, of_input = _outer_factors(weight[start:middle].view(W.shape))
            if of_unit is None or of_input is None:
                return self.dense().kernel(weight)
            # Σ over weights (o, i) of δ_o a_i δ'_o a'_i, a product of two sums.
            a, flat = self.inputs[layer], delta.reshape(n * k, -1)
            inputs = ((a * of_input) @ a.mT)[:, None, :, None].expand(n, k, n, k)
            total += inputs.reshape(n * k, n * k) * ((flat * of_unit) @ flat.mT)
            total += (flat * weight[middle:end]) @ flat.mT
            end = start
        return total.view(n, k, n, k)

    def columns(self) -> Iterator[Tensor]:
        n, k = self.outputs.shape
        for layer, delta in [*self._deltas()][::-1]:
            a = self.inputs[layer]
            size = max(1, COLUMN_NUMBERS // (n * k * a.shape[1]))
            for part in delta.split(size, dim=2):
                yield (part[..., :, None] * a[:, None, None, :]).flatten(2)
            yield delta

    def matrix(self, curve: Callable[[Tensor], Tensor]) -> Tensor:
        n, k = self.outputs.shape
        if k <= MAX_JACOBIAN_OUTPUTS:
            return self.dense().matrix(curve)
        # All weights of two units share Λ between their deltas, (N, out, out'), and differ in
        # their inputs alone: about K times less work than the product of J with itself.
        deltas = [delta for _, delta in self._deltas()][::-1]
        ones = self.outputs.new_ones(n, 1)
        inputs = [torch.cat([a, ones], dim=1) for a in self.inputs]
        sizes = [delta.shape[2] * a.shape[1] for delta, a in zip(deltas, inputs, strict=True)]
        matrix = self.outputs.new_empty(sum(sizes), sum(sizes))
        for i, row in enumerate(torch.split(matrix, sizes)):
            curved = curve(deltas[i].mT)
            for j, block in enumerate(torch.split(row, sizes, dim=1)):
                if i <= j:
                    sums = _summed(curved @ deltas[j], inputs[i], inputs[j], i == j)
                    block.copy_(_packed(_packed(sums).permute(1, 2, 0)).mT)
        return matrix.triu_() + matrix.triu(1).mT


def _outer_factors(weight: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Factors (out,) and (in,) of which weight (out, in) is the outer product, if it is one."""
    of_unit, of_input = weight[:, 0], weight[0] / weight[0, 0]
    outer = of_unit[:, None] * of_input
    rtol = max(OUTER_RTOL, OUTER_ROUNDING * torch.finfo(weight.dtype).eps)
    return (of_unit, of_input) if torch.allclose(outer, weight, rtol, 0.0) else (None, None)


def _summed(shared: Tensor, a: Tensor, c: Tensor, same: bool) -> Tensor:
    """Σ_n M_n ⊗ aₙ cₙᵀ, (out, in, out', in'), for M (N, out, out') and a, c (N, in)."""
    n_in, n_out = (a.shape[1], c.shape[1]), shared.shape[1:]
    if not same:
        sums = shared.flatten(1).mT @ (a[:, :, None] * c[:, None, :]).flatten(1)
        return sums.view(*n_out, *n_in).transpose(1, 2)
    i, j = torch.triu_indices(*n_in, device=a.device)
    position = torch.empty(n_in, dtype=torch.long, device=a.device)
    position[i, j] = position[j, i] = torch.arange(len(i), device=a.device)
    sums = shared.flatten(1).mT @ (a.index_select(1, i) * a.index_select(1, j))
    return sums.index_select(1, position.reshape(-1)).view(*n_out, *n_in).transpose(1, 2)


def _packed(block: Tensor) -> Tensor:
    """Rows (out, in + 1, ...) of the weights and the bias of each unit, as they are packed."""
    return torch.cat([block[:, :-1].flatten(0, 1), block[:, -1]])
