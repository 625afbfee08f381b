"""A schedule from a file over real links."""

from pathlib import Path

import pytest
import yaml
from running_mesh import RING, running_mesh

from flaremesh.topology.mesh import build

pytestmark = pytest.mark.timeout(120)


def test_three_sites_of_which_one_rests_in_turn_have_the_mean_after_a_cycle(tmp_path: Path) -> None:
    values = {"heidelberg": 1.0, "bonn": 2.0, "aachen": 6.0}
    (tmp_path / "schedule.txt").write_text(
        f"phase\nheidelberg bonn 0.5\nphase\nbonn aachen {2 / 3}\nphase\nheidelberg bonn 0.5\n"
    )
    document = yaml.safe_load(RING.read_text())
    document |= {"graph": {"file": "schedule.txt"}, "weights": "explicit"}
    document["run"] |= {"iterations": 3, "evaluate_every": 1}
    document["run"]["problem"]["args"] = {"values": values}
    file = tmp_path / "topology.yaml"
    file.write_text(yaml.safe_dump(document))

    with running_mesh(tmp_path / "mesh", file) as mesh:
        result = mesh.run("schedule")

    assert {site: found.metrics["value"] for site, found in result.sites.items()} == pytest.approx(
        dict.fromkeys(values, 3.0), rel=1e-14
    )
    assert result.predicted_contraction == 0
    assert {site: set(found.links) for site, found in result.sites.items()} == {
        site: build(mesh.topology).neighbors(site) for site in values
    }
    # bonn alone exchanges in every iteration
    sent = {site: sum(found.sent_bytes.values()) for site, found in result.sites.items()}
    assert sent["bonn"] == sent["heidelberg"] + sent["aachen"]
