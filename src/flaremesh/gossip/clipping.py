"""Self-centred clipping: x_i⁺ = x_i + Σ_j w_ij clip(p_j − p_i, τ), where clip(z, τ) = min(1, τ/‖z‖)z.

He, Karimireddy and Jaggi 2022, arXiv 2202.01545. Whatever a neighbour sends moves the site by w_ij τ at most.
It is the gossip step with the weights w_ij min(1, τ/‖p_j − p_i‖), of which the site keeps the rest itself: so
it needs the distances of whole vectors before any part of them is mixed.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from flaremesh.gossip.mixing import Blocks, Workspace, section
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Clip


def distances(
    own: Blocks, others: Mapping[str, Blocks], length: int, work: Workspace, finite_only: bool
) -> dict[str, list[Tensor | float]]:
    """The 2-norms, block by block, of the differences of vectors (length,) to the site's own.

    Args:
        own: p_i.
        others: p_j by in-neighbour.
        length: of the vectors.
        work: for such vectors.
        finite_only: leave out entries whose difference is not finite.

    Returns:
        By in-neighbour; on a GPU 0-d tensors, so that nothing waits for them here.
    """
    norms: dict[str, list[Tensor | float]] = {peer: [] for peer in others}
    for start, stop in work.spans(length):
        mine = own(start, stop, work.scratch[0])
        for peer, blocks in others.items():
            spare = section(work.scratch[1], 0, stop - start)
            difference = torch.sub(blocks(start, stop, spare), mine, out=spare)
            if finite_only:
                difference.nan_to_num_(0.0, 0.0, 0.0)
            norm = torch.linalg.vector_norm(difference, dtype=work.norm_dtype)
            norms[peer].append(norm if mine.is_cuda else float(norm))
    return norms


def clipped(hood: Neighborhood, apart: Mapping[str, float], clip: Clip) -> Neighborhood:
    """The neighbourhood with the weights that clip what its members send.

    Args:
        hood: the site's.
        apart: ‖p_j − p_i‖ of all in-neighbours. Of one that is not finite nothing is taken.
        clip: τ, or "auto" for the second greatest distance, for which there must be two.

    Returns:
        It has no neighbour of which nothing is taken, and is ``hood`` itself if nobody is clipped.
    """
    if not apart:
        return hood
    apart = {peer: far if math.isfinite(far) else math.inf for peer, far in apart.items()}
    # at most the distance of the farthest honest neighbour, whatever one hostile neighbour sends
    radius = sorted(apart.values())[-2] if clip == "auto" else clip
    share = {peer: 1.0 if far <= radius else radius / far for peer, far in apart.items() if far < math.inf}
    weights = {peer: weight * share[peer] for peer, weight in hood.in_weights.items() if share.get(peer)}
    if weights == hood.in_weights:
        return hood
    kept = sum(hood.in_weights.values()) - sum(weights.values())
    return replace(hood, self_weight=hood.self_weight + kept, in_weights=weights)


def clipped_away(hood: Neighborhood, clipping: Neighborhood) -> dict[str, float]:
    """Of each in-neighbour that ``clipping`` clips, the share of its weight that is gone."""
    return {
        peer: 1 - clipping.in_weights.get(peer, 0.0) / weight
        for peer, weight in hood.in_weights.items()
        if clipping.in_weights.get(peer) != weight
    }
