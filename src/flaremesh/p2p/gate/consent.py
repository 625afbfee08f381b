"""The consent of the site's own admin to a run: the policy, and a person where the policy wants one."""

import logging
from pathlib import Path

from flaremesh.p2p.gate import policy
from flaremesh.p2p.gate.approval import Approvals
from flaremesh.p2p.gate.ledger import Ledger
from flaremesh.p2p.gate.policy import PolicyError
from flaremesh.p2p.gate.request import Refused, RunRequest

_log = logging.getLogger(__name__)


def check(workspace: Path, request: RunRequest) -> str | None:
    """Hold a run to the policy of the site, as it is now.

    Args:
        workspace: the site's.
        request: what the run asks.

    Returns:
        Who approved it; None where nobody needs to.

    Raises:
        Refused: the run breaks a rule, asks for more of the site's data than is left, waits for a person, or
            nobody can tell.
    """
    try:
        rules = policy.read(workspace)
    except PolicyError as error:
        _log.error("every run is refused: %s", error)
        raise Refused(
            "policy: the policy of this site has mistakes, so it runs nothing; its log names them"
        ) from None
    if broken := rules.broken_rule(request):
        raise Refused(broken)
    Ledger(workspace).check(request, rules)
    if rules.approval is None:
        return None
    approvals = Approvals(workspace)
    approved_by = approvals.granted(request)
    if approved_by is None:
        raise Refused(approvals.ask(request))
    return approved_by
