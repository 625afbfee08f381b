"""Which methods executors written for nvflare.app_opt.p2p override, and which names are taken."""

from typing import Any, Final, NoReturn

from flaremesh.errors import FlaremeshError

MESSAGES: Final = frozenset({"_exchange_values", "_handle_neighbor_value", "_to_message", "_from_message"})
"""Methods of the stock package that see or change what sites tell each other."""

STEPS: Final = frozenset({"execute", "run_algorithm", "_pre_algorithm_run", "_update_local_state"})
"""Its methods around them, in which a subclass may change the values that an executor holds."""

_FOR_SUBCLASSES = MESSAGES | STEPS | {"_post_algorithm_run", "_make_problem", "_make_algorithm", "_observe"}


class NameTaken(FlaremeshError):
    """A subclass uses a name of flaremesh's for something else."""


class SiteName(str):
    """The site's name, as ``id``; code that uses it as the stock package's number gets NameTaken."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return self._refuse() if isinstance(other, int) else str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __sub__(self, other: object) -> NoReturn:
        self._refuse()

    def __mod__(self, other: object) -> NoReturn:
        self._refuse()

    def __index__(self) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NameTaken(
            f"id is the site's name {str(self)!r} and no number, for a site may have any name; "
            'where names end in a number, int(self.client_name.split("-")[1]) is that number'
        )


def overrides(executor: object, name: str) -> bool:
    """Whether a subclass outside flaremesh, or the instance, has its own ``name`` instead of flaremesh's."""
    if name in vars(executor):
        return True
    return not next((_is_own(cls) for cls in type(executor).__mro__ if name in vars(cls)), True)


def require_free_names(names: Any, executor: type) -> None:
    """Raise NameTaken if one of a subclass's ``names`` would replace a method that flaremesh itself calls."""
    methods = {
        name
        for cls in executor.__mro__
        if _is_own(cls)
        for name, value in vars(cls).items()
        if callable(value) and name.startswith("_") and not name.startswith("__")
    }
    if taken := sorted(methods.intersection(names) - _FOR_SUBCLASSES):
        raise NameTaken(
            f"{executor.__name__}.{taken[0]} is the name of a method that flaremesh's executors use "
            "themselves; call yours something else"
        )


def _is_own(cls: type) -> bool:
    return cls.__module__.startswith("flaremesh.")
