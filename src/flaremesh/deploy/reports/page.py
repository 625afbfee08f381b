"""HTML pages that hold their pictures, one for a light and one for a dark screen each."""

import base64
import io
from collections.abc import Callable
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from flaremesh.deploy.reports.style import DARK, LIGHT, Theme

Draw = Callable[[Theme], Figure | None]


class Picture(NamedTuple):
    """One figure as PNG in both themes."""

    light: bytes
    dark: bytes


def picture(draw: Draw) -> Picture | None:
    """The figure in both themes, None where there is nothing to draw."""
    light, dark = (_png(draw, theme) for theme in (LIGHT, DARK))
    return Picture(light, dark) if light and dark else None


def page(template: str, **content: Any) -> str:
    """The page that a template of this package makes."""
    environment = Environment(
        loader=PackageLoader("flaremesh.deploy.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": _bytes, "data_uri": _data_uri}
    return environment.get_template(template).render(**content)


def _png(draw: Draw, theme: Theme) -> bytes | None:
    with theme.applied():
        figure = draw(theme)
        if figure is None:
            return None
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return image.getvalue()


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
