"""The words of strangers: sites, servers, jobs and pods, made fit for a terminal, a log and a page."""

from typing import Final

MOST_CHARACTERS: Final = 2000
"""So long may the words of a stranger be; the rest is cut."""


def printable(words: object, most: int = MOST_CHARACTERS) -> str:
    """A stranger's words as one line that does nothing but be read.

    White space becomes blanks. What a terminal or a browser acts upon (control characters, escape sequences,
    marks that turn the direction of writing) and what nobody sees is written as in a literal of Python.

    Args:
        words: the words.
        most: so many characters at most; an ellipsis tells where more were cut.
    """
    line = "".join(map(_shown, str(words)[: most + 1])).rstrip()
    return line if len(line) <= most else line[: most - 1] + "…"


def refused(value: object) -> str:
    """A value that was refused, in a message that others read: a number, or else of what kind it is.

    A text may be a secret that a job found where it runs, or an attack on who reads.
    """
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return str(value)
    return f"a {type(value).__name__}"


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]
