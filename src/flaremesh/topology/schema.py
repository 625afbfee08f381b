"""The topology file as closed models: the one source of truth of a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

DnsLabel: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
Org: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]
Host: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")]
Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]
Email: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]


class Closed(BaseModel):
    """Unknown fields are errors: a misspelt key never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Server(Closed):
    """The NVFlare server: job control and relay, never an aggregator."""

    host: Host = Field(description="name that sites and admins dial")
    port: Port = 8002
    org: Org
    names: tuple[Host, ...] = Field((), description="further names and addresses in the server's certificate")


class Admin(Closed):
    """A person who may submit runs."""

    email: Email
    org: Org
    role: Literal["project_admin", "org_admin", "lead", "member"] = "lead"


class LinkAddress(Closed):
    """Where neighbours reach a site for direct links."""

    host: Host
    ports: str = Field(pattern=r"^\d+(-\d+)?$", description="a port or a range such as 8102-8105")


class Site(Closed):
    """One participant: one NVFlare client, one pod."""

    name: DnsLabel
    org: Org
    link: LinkAddress | None = Field(None, description="address for direct links; without it the site's edges are relayed")
    gpus: Annotated[int, Field(ge=0)] = 0


# GRAPHS AND WEIGHTS: see graphs.py and weights.py for what they mean.
class ProblemReference(Closed):
    """The problem of a run: a class in an installed package, or in a file beside the topology file."""

    path: str | None = Field(None, description="dotted path of an installed class, e.g. flaremesh.problems.digits.Digits")
    file: Path | None = Field(None, description="Python file, relative to the topology file, that holds the class")
    name: str | None = Field(None, description="class name in `file`")
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the class")


class Run(Closed):
    """Defaults of a run; `flaremesh run` may override them."""

    algorithm: str
    iterations: Annotated[int, Field(gt=0)]
    stepsize: Annotated[float, Field(gt=0)] | None = None
    options: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="further hyper-parameters of the algorithm, e.g. beta1"
    )
    problem: ProblemReference
    seed: int = 0
    links: Literal["auto", "relay", "direct"] = "auto"
    evaluate_every: Annotated[int, Field(gt=0)] | None = Field(None, description="iterations between evaluations; default: 20 times a run")
    peer_timeout: Annotated[float, Field(gt=0)] = Field(60.0, description="seconds to wait for a neighbour before the run fails")
    start_timeout: Annotated[float, Field(gt=0)] = Field(60.0, description="seconds for all sites to come up and find their neighbours")
    stop_on_non_finite: bool = True
    mix_buffers: bool = Field(True, description="mix BatchNorm statistics too")


class Certificates(Closed):
    """Lifetimes that NVFlare lets us choose."""

    root_days: Annotated[int, Field(gt=0)] = 3650


class Code(Closed):
    """Code that the kits let jobs run beside flaremesh's own."""

    packages: tuple[str, ...] = Field((), description="installed packages whose problems and algorithms are allowed")
    files: bool = Field(False, description="accept problems that a job brings along as a file")


class Deploy(Closed):
    """Settings of the container targets; the local target needs none."""

    image: str | None = None
    namespace: DnsLabel | None = None
    storage: str | None = None
