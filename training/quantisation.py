"""8-bit numbers as the runtime computes with them, imitated in floating point.

Weights: one scale per row (output), symmetric, largest magnitude = 127. Activations: one scale per token; symmetric, except
for the input of the second dense layer of a block (behind GELU, which hardly goes below zero): there 256 steps from the
token's least to its greatest value. Sums are exact in 32-bit integers, so floating point imitates them within rounding.

In training the rounding is passed over by the gradient (straight-through estimator: Bengio et al. 2013,
<https://arxiv.org/abs/1308.3432>).
"""

import torch
from torch import nn


def rows_as_int8(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8-bit rows and their scales (f32): `matrix ≈ rows · scale[:, None]`. A row of zeros has scale 1."""
    largest = matrix.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    return (matrix / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


class RoundedTokens(torch.autograd.Function):
    """Activations rounded, a scale for each token (last dimension): symmetric, or from the least to the greatest value."""

    @staticmethod
    def forward(context, exact: torch.Tensor, symmetric: bool) -> torch.Tensor:
        exact = exact.float()
        if symmetric:
            scale = (exact.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-12)
            return (exact / scale).round_().mul_(scale)
        least = exact.amin(dim=-1, keepdim=True).clamp(max=0)
        greatest = exact.amax(dim=-1, keepdim=True).clamp(min=0)
        scale = ((greatest - least) / 255).clamp(min=1e-12)
        zero = (-least / scale).round()
        return (exact / scale).add_(zero).round_().clamp_(0, 255).sub_(zero).mul_(scale)

    @staticmethod
    def backward(context, gradient: torch.Tensor):
        return gradient, None


def ships_as_int8(module_name: str) -> bool:
    """Whether a module's weight is one of the big matrices."""
    return module_name.endswith((".query", ".key", ".value", ".dense", ".word_embeddings"))


def round_activations(model: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
    """From now on the inputs of the encoder's matrix products are rounded; remove the handles to take it back."""
    handles = []
    for name, module in model.named_modules():
        if ".encoder.layer." in name and isinstance(module, nn.Linear):
            behind_gelu = name.endswith(".output.dense") and ".attention." not in name
            hook = lambda _, inputs, symmetric=not behind_gelu: (RoundedTokens.apply(inputs[0], symmetric),)
            handles.append(module.register_forward_pre_hook(hook))
    return handles
