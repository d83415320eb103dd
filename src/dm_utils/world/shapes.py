"""What the sizes of a language model are, and how many parameters follow from them. No PyTorch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes of a language model, as its published config.json has them, and the bytes per number of its files."""

    n_layers: int
    d_model: int
    d_mlp: int
    heads: int
    key_heads: int
    d_head: int
    vocabulary: int
    file_bytes: int
    positions: int = 0
    gated: bool = True
    tied: bool = True
    norms: int = 4  # vectors of length d_model per layer
    biases: bool = False
    head_norms: int = 0  # vectors of length d_head per layer
    needs_licence: bool = True

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        d, f, h = self.d_model, self.d_mlp, self.d_head
        attention = d * h * (2 * self.heads + 2 * self.key_heads)
        layer = attention + (3 if self.gated else 2) * d * f + self.norms * d + self.head_norms * h
        layer += (4 * d + f + d) if self.biases else 0
        ends = self.vocabulary * d * (1 if self.tied else 2) + self.positions * d + d * (2 if self.biases else 1)
        return self.n_layers * layer + ends
