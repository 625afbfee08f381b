"""The algorithms' equations as their papers print them, over the matrices of all sites, without the code.

Each is a map of what all sites know: ``start`` makes that of X⁰ (n, d), and ``step`` makes what is known
after an iteration of what was known before. Both take W (n, n), the map from X to the gradients ∇F(X), and
the hyper-parameters.
"""

from itertools import count

import torch


def averaging(w):
    """R (n, n), on the graph of W: rows whose entries are equal and sum to one."""
    used = (w != 0).to(w.dtype)
    return used / used.sum(dim=1, keepdim=True)


class Equation:
    """What all sites know begins with X alone, and X is the estimate."""

    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return (x,)

    @classmethod
    def estimate(cls, x, *others):
        return x

    @classmethod
    def estimates(cls, w, gradients, x, **hyper):
        """Those after each iteration, (n, d) each."""
        state = cls.start(w, gradients, x, **hyper)
        for _ in count():
            state = cls.step(w, gradients, *state, **hyper)
            yield cls.estimate(*state)

    @classmethod
    def spectral_radius(cls, w, gradients, x, **hyper):
        """How much of its error the slowest part keeps in an iteration, where the equation is affine.

        Parts that no iteration changes are invariants; from X⁰ they have no error.
        """
        shapes = [part.shape for part in cls.start(w, gradients, x, **hyper)]
        sizes = [shape.numel() for shape in shapes]

        def flat_step(flat):
            parts = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
            return torch.cat([part.flatten() for part in cls.step(w, gradients, *parts, **hyper)])

        zero = flat_step(torch.zeros(sum(sizes), dtype=w.dtype))
        columns = [flat_step(unit) - zero for unit in torch.eye(sum(sizes), dtype=w.dtype)]
        moduli = torch.linalg.eigvals(torch.stack(columns, dim=1)).abs()
        return float(moduli[moduli < 1 - 1e-9].max())


class Consensus(Equation):
    @classmethod
    def step(cls, w, gradients, x):
        return (w @ x,)


class Dgd(Equation):
    @classmethod
    def step(cls, w, gradients, x, stepsize):
        return (w @ x - stepsize * gradients(x),)


class DgdCta(Equation):
    @classmethod
    def step(cls, w, gradients, x, stepsize):
        return (w @ x - stepsize * gradients(w @ x),)


class DgdAtc(Equation):
    @classmethod
    def step(cls, w, gradients, x, stepsize):
        return (w @ (x - stepsize * gradients(x)),)


class GradientTracking(Equation):
    @classmethod
    def start(cls, w, gradients, x, stepsize):
        return x, gradients(x)

    @classmethod
    def step(cls, w, gradients, x, y, stepsize):
        after = w @ x - stepsize * y
        return after, w @ y + gradients(after) - gradients(x)


class GradientTrackingAtc(GradientTracking):
    @classmethod
    def step(cls, w, gradients, x, y, stepsize):
        after = w @ (x - stepsize * y)
        return after, w @ (y + gradients(after) - gradients(x))


class GtAdam(Equation):
    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return x, gradients(x), torch.zeros_like(x), torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, s, m, v, stepsize, beta1=0.9, beta2=0.999, epsilon=1e-2, **cap):
        m = beta1 * m + (1 - beta1) * s
        v = (beta2 * v + (1 - beta2) * s**2).clamp(max=cap.get("G", 1e6))
        after = w @ x - stepsize * m / (v + epsilon).sqrt()
        return after, w @ s + gradients(after) - gradients(x), m, v


class PushSum(Equation):
    @classmethod
    def start(cls, p, gradients, x, **hyper):
        return x, torch.ones_like(x[:, :1])

    @classmethod
    def step(cls, p, gradients, x, mass):
        return p @ x, p @ mass

    @classmethod
    def estimate(cls, x, mass):
        return x / mass


class RobustPushSum(PushSum):
    """Running sums of what is sent and of what has been received; no message is lost here."""

    @classmethod
    def start(cls, p, gradients, x, **hyper):
        zero = torch.zeros_like(x)
        return x, torch.ones_like(x[:, :1]), zero, zero[:, :1], zero, zero[:, :1]

    @classmethod
    def step(cls, p, gradients, x, mass, sent, mass_sent, got, mass_got):
        sent, mass_sent = sent + x, mass_sent + mass
        return p @ sent - got, p @ mass_sent - mass_got, sent, mass_sent, p @ sent, p @ mass_sent

    @classmethod
    def estimate(cls, x, mass, *others):
        return x / mass


class Sgp(PushSum):
    @classmethod
    def step(cls, p, gradients, x, mass, stepsize):
        return p @ (x - stepsize * gradients(x / mass)), p @ mass


class PushDiging(PushSum):
    @classmethod
    def start(cls, p, gradients, x, stepsize):
        return x, torch.ones_like(x[:, :1]), gradients(x)

    @classmethod
    def step(cls, p, gradients, u, mass, y, stepsize):
        before, u, mass = u / mass, p @ (u - stepsize * y), p @ mass
        return u, mass, p @ y + gradients(u / mass) - gradients(before)

    @classmethod
    def estimate(cls, u, mass, y):
        return u / mass


class PushPull(GradientTracking):
    @classmethod
    def step(cls, c, gradients, x, y, stepsize):
        after = averaging(c) @ (x - stepsize * y)
        return after, c @ y + gradients(after) - gradients(x)


class ExactDiffusion(Equation):
    @classmethod
    def start(cls, w, gradients, x, stepsize):
        return x, x

    @classmethod
    def step(cls, w, gradients, x, psi_before, stepsize):
        psi = x - stepsize * gradients(x)
        return (torch.eye(len(w), dtype=w.dtype) + w) / 2 @ (psi + x - psi_before), psi


class Extra(Equation):
    """What is subtracted for the iterate before makes the first iteration that of the paper."""

    @classmethod
    def start(cls, w, gradients, x, stepsize):
        return x, x, torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, half_before, gradient_before, stepsize):
        after = x + w @ x - half_before - stepsize * (gradients(x) - gradient_before)
        return after, (x + w @ x) / 2, gradients(x)


class Nids(Equation):
    @classmethod
    def start(cls, w, gradients, x, stepsize):
        return x - stepsize * gradients(x), x

    @classmethod
    def step(cls, w, gradients, x, before, stepsize):
        moved = 2 * x - before - stepsize * (gradients(x) - gradients(before))
        return (torch.eye(len(w), dtype=w.dtype) + w) / 2 @ moved, x


class Lead(Equation):
    """With an exact wire: the public copies are the vectors, and a step is a whole one."""

    @classmethod
    def start(cls, w, gradients, x, stepsize):
        return x - stepsize * gradients(x), torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, d, stepsize):
        y = x - stepsize * gradients(x) - stepsize * d
        d = d + (y - w @ y) / (2 * stepsize)
        return x - stepsize * gradients(x) - stepsize * d, d


class Beer(Equation):
    """With an exact wire: the public copies are the vectors, and a step is a whole one."""

    @classmethod
    def start(cls, w, gradients, x, stepsize):
        return x, gradients(x)

    @classmethod
    def step(cls, w, gradients, x, v, stepsize):
        away = w - torch.eye(len(w), dtype=w.dtype)
        after = x + away @ x - stepsize * v
        return after, v + away @ v + gradients(after) - gradients(x)


class LocalDgd(Equation):
    @classmethod
    def step(cls, w, gradients, x, stepsize, local_steps):
        for _ in range(local_steps):
            x = x - stepsize * gradients(x)
        return (w @ x,)


class KGt(Equation):
    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return x, torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, c, stepsize, local_steps, outer):
        z = x
        for _ in range(local_steps):
            z = z - stepsize * (gradients(z) + c)
        d = (x - z) / (local_steps * stepsize)
        return w @ (x - local_steps * outer * stepsize * d), c - d + w @ d


class Noloco(Equation):
    """With one weight for both averages, b = γ."""

    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return x, torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, m, stepsize, local_steps, beta=0.5, outer=0.7):
        z = x
        for _ in range(local_steps):
            z = z - stepsize * gradients(z)
        m = beta * m + outer * w @ (z - x) - outer * (x - w @ x)
        return x + m, m


class Led(Equation):
    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return x, torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, y, stepsize, local_steps):
        phi = x
        for _ in range(local_steps):
            phi = phi - stepsize * gradients(phi) - y / local_steps
        x = (torch.eye(len(w), dtype=w.dtype) + w) / 2 @ phi
        return x, y + (phi - x)


class MomentumTracking(Equation):
    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return x, torch.zeros_like(x), torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, u, c, stepsize, beta):
        u = beta * u + gradients(x)
        return w @ (x - stepsize * (u - c)), u, w @ (c - u) + u


class QuasiGlobalMomentum(Equation):
    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return x, torch.zeros_like(x)

    @classmethod
    def step(cls, w, gradients, x, m, stepsize, beta):
        after = w @ (x - stepsize * (beta * m + gradients(x)))
        return after, beta * m + (1 - beta) * (x - after) / stepsize


class RFast(Equation):
    """Where every message comes in time, what is shared is mixed like any tracker."""

    @classmethod
    def start(cls, w, gradients, x, **hyper):
        return x, gradients(x)

    @classmethod
    def step(cls, w, gradients, x, z, stepsize, local_steps):
        for mixing in (*(local_steps - 1) * [torch.eye(len(w), dtype=w.dtype)], w):
            after = mixing @ (x - stepsize * z)
            x, z = after, mixing @ z + gradients(after) - gradients(x)
        return x, z


EQUATIONS = {
    "beer": Beer,
    "consensus": Consensus,
    "dgd": Dgd,
    "dgd-atc": DgdAtc,
    "dgd-cta": DgdCta,
    "exact-diffusion": ExactDiffusion,
    "extra": Extra,
    "gradient-tracking": GradientTracking,
    "gradient-tracking-atc": GradientTrackingAtc,
    "gtadam": GtAdam,
    "k-gt": KGt,
    "lead": Lead,
    "led": Led,
    "local-dgd": LocalDgd,
    "momentum-tracking": MomentumTracking,
    "nids": Nids,
    "noloco": Noloco,
    "push-diging": PushDiging,
    "push-pull": PushPull,
    "push-sum": PushSum,
    "quasi-global-momentum": QuasiGlobalMomentum,
    "r-fast": RFast,
    "robust-push-sum": RobustPushSum,
    "sgp": Sgp,
}
"""By the registered name."""

NOT_AFFINE = {"gtadam", "push-diging", "push-sum", "robust-push-sum", "sgp"}
"""Those whose estimates are no affine function of what was known before."""
