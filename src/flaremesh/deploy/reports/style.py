"""How figures look: themes, the lines of sites, titled axes."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flaremesh.deploy.runs.results import RecordedRun

# Okabe and Ito's colours; their yellow, dark blue and black would vanish on white or on black
_COLOURS = ("#2080C0", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#9A8700", "#808080")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))

LABELLED_SITES: Final = len(_COLOURS)
"""The most sites that each have a colour of their own."""

DISTINCT_SITES: Final = len(_COLOURS) * len(_DASHES)
"""The most sites that each have a line of their own look, by colour and dashes."""

PREDICTED: Final = _COLOURS[4]
"""Colour of what theory predicts."""


@dataclass(frozen=True)
class Theme:
    """Colours of everything that is not data."""

    ink: str
    muted: str
    grid: str
    surface: str
    accent: str
    soft: str
    faint: str

    def applied(self) -> AbstractContextManager[None]:
        """Matplotlib's settings for figures that are drawn and saved inside."""
        return rc_context(
            {
                "axes.axisbelow": True,
                "axes.edgecolor": self.grid,
                "axes.facecolor": self.surface,
                "axes.grid": True,
                "axes.labelcolor": self.muted,
                "axes.labelsize": 9,
                "axes.spines.right": False,
                "axes.spines.top": False,
                "axes.titlecolor": self.ink,
                "axes.titlelocation": "left",
                "axes.titlepad": 26,
                "axes.titlesize": 11.5,
                "axes.titleweight": "bold",
                "figure.constrained_layout.use": True,
                "figure.facecolor": self.surface,
                "grid.color": self.grid,
                "grid.linewidth": 0.6,
                "legend.fontsize": 8,
                "legend.frameon": False,
                "lines.linewidth": 1.6,
                "savefig.dpi": 180,
                "savefig.facecolor": self.surface,
                "text.color": self.ink,
                "text.parse_math": False,  # a name is no formula
                "text.usetex": False,  # a matplotlibrc of the current folder is read, and must start no TeX
                "xtick.color": self.grid,
                "xtick.labelcolor": self.muted,
                "xtick.labelsize": 8.5,
                "ytick.color": self.grid,
                "ytick.labelcolor": self.muted,
                "ytick.labelsize": 8.5,
                "ytick.minor.size": 0,
            }
        )


LIGHT = Theme(
    ink="#1f2328",
    muted="#59636e",
    grid="#d8dee4",
    surface="#ffffff",
    accent="#4f46a5",
    soft="#a7a2d2",
    faint="#d3d6da",
)
DARK = Theme(
    ink="#e6edf3",
    muted="#9da7b1",
    grid="#353c45",
    surface="#151b23",
    accent="#a29bf0",
    soft="#65609c",
    faint="#3d444d",
)


def site_style(run: RecordedRun, site: str) -> dict[str, Any]:
    """A site looks the same in every figure; beyond 24 sites only its place in the order shows."""
    index, count = run.sites.index(site), len(run.sites)
    if count > DISTINCT_SITES:
        return {
            "color": to_hex(colormaps["viridis"](0.1 + 0.75 * index / count)),
            "linewidth": 0.8,
            "alpha": 0.7,
        }
    return line_style(index)


def line_style(number: int) -> dict[str, Any]:
    """The look of one line of many, of which 24 can be told apart."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)],
    }


def titled_axes(title: str, x: str = "iteration", y: str = "", height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure with one pair of axes.

    Args:
        title: what is to be seen.
        x: label of the horizontal axis; iterations have whole numbers only.
        y: label of the vertical axis.
        height: of the figure, inches.
    """
    figure = Figure(figsize=(8.4, height))
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    if x == "iteration":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def subtitle(axes: Axes, what: str, theme: Theme) -> None:
    """Say below the title what is drawn."""
    axes.annotate(
        what,
        (0, 1),
        xytext=(0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=theme.muted,
    )
