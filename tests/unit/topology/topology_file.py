"""A valid topology file, any section of which a test may replace."""

import re
from textwrap import dedent

_SECTIONS = """\
apiVersion: flaremesh/v1
name: ring3
server: {host: localhost, port: 8002, org: consortium}
admins: [{email: admin@consortium.org, org: consortium, role: project_admin}]
sites: [{name: heidelberg, org: ukhd}, {name: bonn, org: ukb}, {name: aachen, org: uka}]
graph: {kind: ring}
weights: metropolis
run: {algorithm: consensus, iterations: 10, problem: {path: flaremesh.problems.consensus.Consensus}}
"""


def with_sections(snippet: str) -> str:
    """The snippet, so that its lines keep their numbers, and then every section that it does not hold."""
    snippet = dedent(snippet).strip("\n")
    given = set(re.findall(r"^(\w+):", snippet, flags=re.MULTILINE))
    rest = [line for line in _SECTIONS.splitlines() if line.partition(":")[0] not in given]
    return "\n".join([snippet, *rest]) + "\n"
