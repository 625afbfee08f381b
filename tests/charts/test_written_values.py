"""What provisioning writes for Helm is what Helm reads, with Helm's own reader."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import values_from_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flaremesh.provision.kits import provision
from flaremesh.provision.releases import release_folder, write_values
from flaremesh.topology.load import load

REPOSITORY = Path(__file__).parents[2]
TAKEN_FOR_OTHERS = [
    *(
        "1234e56",
        "0934812",
        "1e3",
        "0x1F",
        "0o17",
        "017",
        "0b11",
        "1_000",
        "12:30",
        "1:30:00",
        "1.0",
        ".5",
        "+1",
    ),
    *("true", "Yes", "NO", "on", "off", "y", "N", "null", "Null", "~", "", "=", "<<", ".inf", ".NaN", "-"),
    *(
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        "#x",
        "a: b",
        "a #b",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
    ),
    *(
        "'",
        '"',
        "\\",
        "{a}",
        "[a]",
        "- a",
        "? a",
        " a",
        "a ",
        "a\nb",
        "a\n",
        "\na",
        "a\n ",
        "\t",
        "ä",
        "😀",
        "\x85",
    ),
    *("---", "...", "\u2028", "a" * 300, "a b " * 100, "yes\nno", "\ufeff", "\x07"),
]


@pytest.mark.parametrize("text", TAKEN_FOR_OTHERS)
def test_helm_reads_every_text_as_it_is(text: str, tmp_path: Path) -> None:
    values = {"tag": text, "labels": {text: text}, "list": [text]}
    write_values(tmp_path / "values.yaml", values, mode=0o600)

    assert values_from_yaml((tmp_path / "values.yaml").read_text()) == values
    assert yaml.safe_load((tmp_path / "values.yaml").read_text()) == values


@settings(max_examples=200)
@given(
    values=st.dictionaries(
        st.text(), st.text() | st.integers(-(2**53), 2**53) | st.booleans() | st.none(), max_size=8
    )
)
def test_helm_reads_all_values_as_they_are(values: dict[str, Any], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    write_values(path, values, mode=0o600)

    assert values_from_yaml(path.read_text()) == values


def test_a_tag_that_looks_like_a_number_arrives_as_text(tmp_path: Path) -> None:
    text = (REPOSITORY / "provision/ring3-consensus.yaml").read_text()
    further = "{podAnnotations: {time: '12:30'}, podLabels: {'1e3': 'y'}}"
    topology = tmp_path / "mesh.yaml"
    topology.write_text(f"{text}\ndeploy:\n  image: registry:5000/flaremesh:1234e56\n  values: {further}\n")
    provision(load(topology), tmp_path / "out")

    for participant in ("server", "bonn"):
        written = (release_folder(tmp_path / "out", participant) / "values.yaml").read_text()
        values = values_from_yaml(written)
        assert values["image"] == {"repository": "registry:5000/flaremesh", "tag": "1234e56"}
        assert values["podAnnotations"] == {"time": "12:30"}
        assert values["podLabels"] == {"1e3": "y"}
