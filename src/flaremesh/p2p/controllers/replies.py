"""What sites reply to the controller's tasks: strangers' objects, as NVFlare has decoded them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from pydantic import Field

from flaremesh.p2p.tasks import ITERATION, LOST, REASON
from flaremesh.printable import printable
from flaremesh.record import Name, RecordError, Schema, Whole


@dataclass(frozen=True)
class Reply:
    """A site's reply to a task.

    Attributes:
        failure: why the site failed; None if it did not.
        stopped: it did what it was told when the run was aborted.
        iteration: in which the site waited for its neighbours in vain; None for another failure.
        lost: it lost a neighbour or an edge, and did not fail itself.
        data: what it brings; {} if it says no more than that all went well.
    """

    failure: str | None
    stopped: bool
    iteration: int | None
    lost: bool
    data: Mapping[str, Any]

    @classmethod
    def of(cls, site: str, reply: Shareable, planned: int) -> "Reply":
        """Read a reply.

        Args:
            site: who sent it.
            reply: what it is said to be; it may be anything.
            planned: how many iterations the run has; 0 where nobody knows.

        Raises:
            RecordError: it is none.
        """
        try:
            code = reply.get_return_code()
            reason, iteration, lost = (reply.get_header(name) for name in (REASON, ITERATION, LOST))
            data = _data(reply)
        except Exception as error:  # which one depends on what the site sent
            raise RecordError(f"what {site} replies is no reply: {type(error).__name__}.") from error
        code = code if isinstance(code, str) else ReturnCode.ERROR
        told = reason if isinstance(reason, str) and reason else code
        within = type(iteration) is int and iteration >= 0 and not 0 < planned < iteration
        return cls(
            failure=None if code in (ReturnCode.OK, ReturnCode.TASK_ABORTED) else printable(told),
            stopped=code == ReturnCode.TASK_ABORTED,
            iteration=iteration if within else None,
            lost=lost is True,
            data=data,
        )


@dataclass(frozen=True)
class Configured:
    """What a site brings with its reply to the first ``config`` task.

    Attributes:
        address: host and port where its in-neighbours dial; None if they cannot.
        by_value: it exchanges values by methods that a subclass overrides.
        checkpoints: the iterations of which it has a checkpoint of this run.
    """

    address: tuple[Name, Annotated[int, Field(ge=1, le=65535)]] | None = None
    by_value: bool = False
    checkpoints: Annotated[tuple[Whole, ...], Field(max_length=16)] = ()


CONFIGURED: Final = Schema[Configured](Configured, "a reply to the config task")


def configured(site: str, data: Mapping[str, Any], link: Mapping[str, Any] | None) -> Configured:
    """Read what a site brings with its reply to the first ``config`` task.

    Args:
        site: its name.
        data: what it brings.
        link: where the run's configuration says that it is dialled: {"host": ..., "ports": [low, high]}.

    Raises:
        RecordError: it is no such reply, or tells another address.
    """
    reply = CONFIGURED.of(data, f"what {site} replies")
    if reply.address is not None:
        host, port = reply.address
        low, high = link["ports"] if link else (1, 0)
        if link is None or host != link["host"] or not low <= port <= high:
            raise RecordError(
                f"what {site} replies is none of the addresses that the run's configuration gives it."
            )
    return reply


def _data(reply: Shareable) -> dict[str, Any]:
    try:
        data = from_shareable(reply).data
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
