"""The environment of a job's process."""

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

MORE_VARIABLE: Final = "FLAREMESH_JOB_ENVIRONMENT"
"""Names further variables that jobs may see, divided by commas; ``*`` stands for any characters."""

PASSED: Final[Mapping[str, str]] = {
    "PATH": "programs that a data loader calls",
    "HOME": "where libraries look for what the site's admin installed or cached",
    "USER": "libraries name folders for temporary files after it",
    "LOGNAME": "the same",
    "LANG": "how texts are encoded",
    "LC_*": "the same",
    "TZ": "times in logs",
    "PYTHON*": "where modules are, and how the interpreter works",
    "LD_LIBRARY_PATH": "where libraries of CUDA are",
    "LD_PRELOAD": "how memory is allocated",
    "MALLOC_*": "the same",
    "OMP_*": "how many threads compute",
    "KMP_*": "the same, of Intel's and LLVM's OpenMP",
    "MKL_*": "the same",
    "OPENBLAS_*": "the same",
    "NUMEXPR_*": "the same",
    "CUDA_*": "which GPUs may be used, and how",
    "NVIDIA_*": "the same, in containers",
    "NCCL_*": "how GPUs speak to each other",
    "CUBLAS_*": "results that can be repeated",
    "HIP_*": "which GPUs may be used, of AMD",
    "ROCR_*": "the same",
    "TORCH*": "torch's settings",
    "PYTORCH_*": "the same",
    "MPL*": "matplotlib's settings",
    "GRPC_*": "how NVFlare reaches the server",
    "SSL_CERT_*": "which certificates downloads trust",
    "NVFLARE_*": "NVFlare's settings",
    "FLAREMESH_DATA_DIR": "where the site's data is",
    "FLAREMESH_METRICS_DIR": "where the run leaves its metrics",
    "FLAREMESH_JOB_WRITES": "which folders jobs may write",
    "FLAREMESH_JOB_HIDES": "which files jobs may not read",
    "FLAREMESH_POLICY": "where the site's policy is, which is one of them",
}
"""Names, in which ``*`` stands for any characters, and what a job needs each for."""

PROXIES: Final = frozenset(
    name
    for kind in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")
    for name in (kind, kind.upper())
)
"""How the server is reached; passed unless there is a password in it."""


_CACHES = ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR")  # of what is compiled, which must be writable


def of_job(given: Mapping[str, str], temporary: str) -> dict[str, str]:
    """The environment of a job's process.

    Args:
        given: the environment of its site, of which it may see what is listed.
        temporary: the run's own folder for temporary files.
    """
    patterns = [*PASSED, *_more(given)]
    caches = {name: f"{temporary}/{name}" for name in _CACHES}
    return (
        caches
        | {
            name: value
            for name, value in given.items()
            if _named(name, patterns) or (name in PROXIES and not _has_password(value))
        }
        | {
            "TMPDIR": temporary,
            "PYTHONSAFEPATH": "1",  # nothing is imported from the folder in which the process works
        }
    )


def withheld_proxies(given: Mapping[str, str]) -> list[str]:
    """The proxies that are not passed because of their passwords, sorted."""
    return sorted(
        name
        for name in PROXIES & given.keys()
        if _has_password(given[name]) and not _named(name, _more(given))
    )


def paths(given: Mapping[str, str], name: str) -> list[str]:
    """The paths in a variable that names several, resolved."""
    return [os.path.realpath(path) for path in given.get(name, "").split(os.pathsep) if path]


def _more(given: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in given.get(MORE_VARIABLE, "").split(",")]


def _named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _has_password(proxy: str) -> bool:
    return "@" in urlsplit(proxy if "//" in proxy else f"//{proxy}").netloc
