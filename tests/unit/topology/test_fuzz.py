"""Whatever a file holds: a mesh or a sentence. FUZZ_EXAMPLES=5000 looks longer than a test run can."""

import copy
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from topology_file import with_sections

from flaremesh.errors import FlaremeshError
from flaremesh.provision.plan import plan
from flaremesh.topology.load import load
from flaremesh.topology.mistakes import TopologyError
from flaremesh.topology.schema import ProblemReference, Topology

PROVISION = Path(__file__).parents[3] / "provision"
NAMES = ("ring3-consensus", "directed-ring3", "kubernetes-digits-ring4", "two-clusters")
EXAMPLES = [(PROVISION / f"{name}.yaml").read_text() for name in NAMES]
EXAMPLES.append(
    with_sections(
        """
        sites:
        - &first {name: bonn, org: ukb, gpus: 1, link: {host: localhost, ports: 8102-8105}}
        - {<<: *first, name: aachen, metrics: {share: [ready]}}
        - {name: kiel, org: uksh}
        graph:
          directed: true
          edges:
          - {from: bonn, to: aachen, weight: 0.3}
          - {from: aachen, to: kiel, weight: 1e-1}
          - {from: kiel, to: bonn, weight: 0.5}
        weights: explicit
        run:
          algorithm: gtadam
          iterations: 1_000
          stepsize: 1e-3
          options: {epsilon: 1e-2}
          seed: 0x10
          peer_timeout: 30
          wire: {encoding: top-k, fraction: 0.05, gossip: .5}
          mixing: {clip: 1e-1}
          problem: {path: flaremesh.problems.consensus.Consensus, args: {dimension: 3, by: {0: 2024-01-01}}}
        certificates: {root_days: 365}
        code: {packages: [ourlab.problems], files: yes}
        metrics: {share: all}
        deploy:
          image: registry:5000/x/y:TAG
          gpuImage: "flaremesh:1234e56"
          storage: fast
          monitoring: watch
          values: {podAnnotations: {"on": "12:30"}, memory: {shm: 1Gi}}
        """
    )
)
TOKENS = (
    *(
        "&a ",
        "*a",
        "<<: ",
        "<<: *first",
        "[",
        "]",
        "{",
        "}",
        "- ",
        ": ",
        ":",
        ",",
        "#",
        "'",
        '"',
        "|\n",
        "? ",
    ),
    *(
        "\t",
        "\n",
        "\r",
        "\0",
        "\x85",
        "\u2028",
        "\ufeff",
        "\u200b",
        "ä",
        "😀",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
    ),
    *("!!int ", "!!python/name:os.system ", "!x ", "! ", "~", "yes", "NO", "1e999", "010", "12:30", "1e-4"),
    *(".inf", ".nan", "-1", "0", "99999999999999999999", "2024-02-30", "0x", "1_", "null", "true"),
    *("source", "api_version", "a..b", "monitoring", "server", "optimal", "hypercube", "kind: torus\n"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64, 10**30]),
    st.floats(),
    st.dates(),
    st.datetimes(),
    st.text(max_size=8),
    st.sampled_from([token.strip() for token in TOKENS]),
    st.text("a.-_@:/", max_size=70),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)
EDGE_TOKENS = (
    "heidelberg",
    "bonn",
    "aachen",
    "bonnn",
    "from",
    "to",
    "weight",
    "phase",
    "0.3",
    "1e-1",
    "nan",
    "0,3",
)
EDGE_MARKS = (" ", ",", ";", "\t", "\n", "\r\n", "#", '"', "\0", "\ufeff", "\x85", "\u00a0", "ä", "-1", "inf")

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def expect_mesh_or_sentence(path: Path) -> None:
    started = time.process_time()
    refused = refusal(path)
    assert time.process_time() - started < 5
    if isinstance(refused, TopologyError):
        breaks = re.findall("[\n\x85\u2028\u2029]", path.read_text(encoding="utf-8"))  # as YAML has them
        for mistake in refused.mistakes:
            assert 1 <= mistake.line <= len(breaks) + 1
            assert mistake.problem
            assert mistake.remedy
        assert all(line.isprintable() for line in str(refused).split("\n"))


def refusal(path: Path) -> FlaremeshError | None:
    try:
        topology = load(path)
        assert Topology.model_validate_json(topology.model_dump_json()).name == topology.name
        # what may be wrong with a problem is no matter of the file
        problem = ProblemReference(path="flaremesh.problems.consensus.Consensus")
        plan(topology.model_copy(update={"run": topology.run.model_copy(update={"problem": problem})}))
    except FlaremeshError as error:
        return error
    return None


@st.composite
def mutated_text(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 5, 20, 100]))
        cut = text[start:end]
        new = draw(st.sampled_from([*TOKENS, "", cut * 2, cut[::-1], text[:50]]))
        text = text[:start] + new + text[end:]
    return text


def places(value: Any, set_to: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """How to replace each value inside."""
    yield set_to
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], lambda new, key=key: value.__setitem__(key, new))


@st.composite
def mutated_data(draw: st.DrawFn) -> Any:
    document = {"": copy.deepcopy(yaml.safe_load(draw(st.sampled_from(EXAMPLES))))}
    for _ in range(draw(st.integers(1, 2))):
        ways = list(places(document[""], lambda new: document.__setitem__("", new)))
        draw(st.sampled_from(ways))(draw(VALUES))
    return document[""]


@fuzzed
@given(text=mutated_text())
def test_a_file_with_typing_errors_is_a_mesh_or_a_sentence(text: str, folder: Path) -> None:
    path = folder / "typed.yaml"
    path.write_text(text, encoding="utf-8", newline="")

    expect_mesh_or_sentence(path)


@fuzzed
@given(data=mutated_data())
def test_a_file_with_wrong_values_is_a_mesh_or_a_sentence(data: Any, folder: Path) -> None:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")

    expect_mesh_or_sentence(path)


@fuzzed
@given(
    tokens=st.lists(st.sampled_from([*EDGE_TOKENS, *EDGE_MARKS]) | st.text(max_size=3), max_size=40),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    options=st.sampled_from(["", ", directed: yes", ", kind: ring"]),
    rule=st.sampled_from(["metropolis", "explicit", "push-sum"]),
)
def test_an_edge_list_with_anything_is_a_mesh_or_a_sentence(
    tokens: list[str], encoding: str, options: str, rule: str, folder: Path
) -> None:
    path = folder / "listed.yaml"
    path.write_text(with_sections(f"graph: {{file: edges.txt{options}}}\nweights: {rule}"))
    ring = "heidelberg bonn 0.3\nbonn aachen 0.3\naachen heidelberg 0.3\n"
    (folder / "edges.txt").write_bytes((ring + "".join(tokens)).encode(encoding, errors="replace"))

    expect_mesh_or_sentence(path)
