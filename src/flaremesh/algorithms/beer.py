"""BEER: gradient tracking with messages of few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flaremesh.algorithms.gradient_tracking import GradientTracking
from flaremesh.algorithms.registry import register


@register("beer")
@dataclass(frozen=True)
class Beer(GradientTracking):
    """X⁺ = X + γ(W − I)H − ηV,        H ← H + C(X⁺ − H),  V⁰ = ∇F(X⁰),
    V⁺ = V + γ(W − I)G + ∇F(X⁺) − ∇F(X),  G ← G + C(V⁺ − G).

    That is GradientTracking, with V = Y and η = α, on a wire that compresses: H and G are its public copies,
    C is its compressor and γ its step. Its copies begin as C(X⁰) and C(V⁰), not as zero, because the first
    iteration mixes, too. With exact messages nothing is left of it but gradient tracking.
    """

    paper: ClassVar[str] = "Zhao, Li, Li, Richtárik and Chi 2022, arXiv 2201.13320, algorithm 1"
