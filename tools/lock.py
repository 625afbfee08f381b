"""Pins with hashes what is installed: `make lock` writes requirements/ from pyproject.toml.

Every file is installed with ``--require-hashes`` and from one index alone, so that no other index can offer a
package of the same name: torch's from where its build for the machine is, all others from PyPI.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.request import urlopen

_FOLDER: Final = Path("requirements")
_INSTALLER: Final = ("pip", "setuptools")
"""What installs and builds all others."""

_VISION: Final = ("torch==2.14.1", "torchvision==0.29.1")
"""torch and torchvision are released in pairs."""

_CUDA: Final = re.compile(r"(cuda|nvidia)-.*|triton")
"""What PyPI's build of torch needs on Linux, and its CPU build does not."""

_COMPILE: Final = (
    *("pip-compile", "--quiet", "--upgrade", "--generate-hashes", "--allow-unsafe", "--strip-extras"),
    *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--annotation-style", "line"),
)


def write(torch_index: str) -> None:
    """Write all files of requirements/.

    Args:
        torch_index: URL of the index with torch's CPU build, whose hashes are added to those of PyPI's build.
            Empty keeps those that the files have.

    Raises:
        CalledProcessError: pip-compile failed; its message is above.
        OSError: the index cannot be read.
    """
    everything = _pins("pyproject.toml", "--extra", "dev", "--constraint", str(_FOLDER / "constraints.txt"))
    _write("installer.txt", [everything[name] for name in _INSTALLER])
    _write("lock.txt", _ordinary(everything).values())
    _write_torch("torch", everything, torch_index)
    with tempfile.TemporaryDirectory() as scratch:
        pinned, wanted = Path(scratch) / "pinned.txt", Path(scratch) / "wanted.txt"
        pinned.write_text("".join(f"{pin.split()[0]}\n" for pin in everything.values() if "==" in pin))
        image = ("--extra", "privacy")  # what a site needs for any run that its mesh may have
        for name, *extra in (("image.txt", *image), ("image-deploy.txt", *image, "--extra", "deploy")):
            _write(name, _ordinary(_pins("pyproject.toml", *extra, "--constraint", str(pinned))).values())
        trainers = _ordinary(_pins("pyproject.toml", "--extra", "trainers", "--constraint", str(pinned)))
        _write("trainers.txt", [pin for name, pin in trainers.items() if name not in everything])
        pinned.write_text("".join(f"{pin.split()[0]}\n" for pin in _ordinary(everything).values()))
        wanted.write_text("\n".join(_VISION))
        _write_torch("vision", _pins(str(wanted), "--constraint", str(pinned)), torch_index)


def _write_torch(name: str, pins: Mapping[str, str], index: str) -> None:
    """Write the pins of torch, and apart from them those that only its CUDA build needs."""
    torch = {package: pin for package, pin in pins.items() if package in ("torch", "torchvision")}
    known = (_FOLDER / f"{name}.txt").read_text()
    _write(f"{name}.txt", [_with_cpu_build(package, pin, index, known) for package, pin in torch.items()])
    _write(f"{name}-cuda.txt", [_on_linux(pin) for package, pin in pins.items() if _CUDA.fullmatch(package)])


def _ordinary(pins: Mapping[str, str]) -> dict[str, str]:
    others = ("flaremesh", "torch", *_INSTALLER)
    return {name: pin for name, pin in pins.items() if name not in others and not _CUDA.fullmatch(name)}


def _pins(*arguments: str) -> dict[str, str]:
    """Name of each package that the arguments lead to -> its lines, as PyPI alone has it."""
    environment = os.environ | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
    }
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "pins.txt"
        program = str(Path(sys.executable).with_name(_COMPILE[0]))
        command = [program, *_COMPILE[1:], "--output-file", str(output), *arguments]
        subprocess.run(command, check=True, env=environment)
        text = output.read_text()
    entries = re.findall(
        r"^[a-z0-9].*\n(?:^ .*\n)*", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), re.MULTILINE
    )
    return {re.split(r"[ =@]", entry, maxsplit=1)[0]: entry for entry in entries}


def _with_cpu_build(package: str, pin: str, index: str, known: str) -> str:
    """A pin with the hashes of the package's CPU build, from its index or else those that a file had."""
    name, *given = re.sub(r"#.*|\\", "", pin).split()
    version = re.escape(name.partition("==")[2])
    if index:
        with urlopen(f"{index.rstrip('/')}/{package}/") as page:
            text = page.read().decode()
        wheels = rf"{package}-{version}(?:\+|%2B)cpu-[^\"'#]*#(sha256)=([0-9a-f]{{64}})"
        given += [f"--hash={kind}:{digest}" for kind, digest in re.findall(wheels, text)]
    elif entry := re.search(rf"^{package}=={version}\s.*\n(?:^ .*\n)*", known, re.MULTILINE):
        given += re.findall(r"--hash=\S+", entry[0])
    return " \\\n    ".join([name, *sorted(set(given))]) + "\n"


def _on_linux(pin: str) -> str:
    name, _, rest = pin.partition(" ")
    return f'{name} ; sys_platform == "linux" {rest}'


def _write(name: str, pins: Iterable[str]) -> None:
    (_FOLDER / name).write_text("".join(pins))


if __name__ == "__main__":
    write(*sys.argv[1:])
