"""The algorithms' equations as their papers print them, over the matrices of all sites, without the code.

Each takes W (n, n), the map from X (n, d) to the gradients ∇F(X), X⁰ and the hyper-parameters, and yields the
estimates (n, d) after each iteration.
"""

import torch


def consensus(w, gradients, x):
    while True:
        x = w @ x
        yield x


def dgd(w, gradients, x, stepsize):
    while True:
        x = w @ x - stepsize * gradients(x)
        yield x


def dgd_cta(w, gradients, x, stepsize):
    while True:
        x = w @ x - stepsize * gradients(w @ x)
        yield x


def dgd_atc(w, gradients, x, stepsize):
    while True:
        x = w @ (x - stepsize * gradients(x))
        yield x


def gradient_tracking(w, gradients, x, stepsize):
    y = gradients(x)
    while True:
        x_next = w @ x - stepsize * y
        y = w @ y + gradients(x_next) - gradients(x)
        x = x_next
        yield x


def gradient_tracking_atc(w, gradients, x, stepsize):
    y = gradients(x)
    while True:
        x_next = w @ (x - stepsize * y)
        y = w @ (y + gradients(x_next) - gradients(x))
        x = x_next
        yield x


def gtadam(w, gradients, x, stepsize, beta1=0.9, beta2=0.999, epsilon=1e-2, G=1e6):  # noqa: N803  # the option's name
    s, m, v = gradients(x), torch.zeros_like(x), torch.zeros_like(x)
    while True:
        m = beta1 * m + (1 - beta1) * s
        v = (beta2 * v + (1 - beta2) * s**2).clamp(max=G)
        x_next = w @ x - stepsize * m / (v + epsilon).sqrt()
        s = w @ s + gradients(x_next) - gradients(x)
        x = x_next
        yield x


def push_sum(p, gradients, x):
    mass = torch.ones_like(x[:, :1])
    while True:
        x, mass = p @ x, p @ mass
        yield x / mass


def sgp(p, gradients, x, stepsize):
    mass = torch.ones_like(x[:, :1])
    while True:
        x, mass = p @ (x - stepsize * gradients(x / mass)), p @ mass
        yield x / mass


def exact_diffusion(w, gradients, x, stepsize):
    half, psi_before = (torch.eye(len(w), dtype=w.dtype) + w) / 2, x
    while True:
        psi = x - stepsize * gradients(x)
        x, psi_before = half @ (psi + x - psi_before), psi
        yield x


def extra(w, gradients, x, stepsize):
    before, x = x, w @ x - stepsize * gradients(x)
    yield x
    half = (torch.eye(len(w), dtype=w.dtype) + w) / 2
    while True:
        change = gradients(x) - gradients(before)
        before, x = x, x + w @ x - half @ before - stepsize * change
        yield x


def local_dgd(w, gradients, x, stepsize, local_steps):
    while True:
        for _ in range(local_steps):
            x = x - stepsize * gradients(x)
        x = w @ x
        yield x


def k_gt(w, gradients, x, stepsize, local_steps, outer):
    c = torch.zeros_like(x)
    while True:
        z = x
        for _ in range(local_steps):
            z = z - stepsize * (gradients(z) + c)
        d = (x - z) / (local_steps * stepsize)
        c = c - d + w @ d
        x = w @ (x - local_steps * outer * stepsize * d)
        yield x


EQUATIONS = {
    "exact-diffusion": exact_diffusion,
    "extra": extra,
    "k-gt": k_gt,
    "local-dgd": local_dgd,
    "consensus": consensus,
    "dgd": dgd,
    "dgd-cta": dgd_cta,
    "dgd-atc": dgd_atc,
    "gradient-tracking": gradient_tracking,
    "gradient-tracking-atc": gradient_tracking_atc,
    "gtadam": gtadam,
    "push-sum": push_sum,
    "sgp": sgp,
}
