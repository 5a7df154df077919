"""Figure 2 and Eq. 4: what the networks are given, what they can see, and the command."""

from __future__ import annotations

import csv
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpsearch.dipoles import drawing
from hpsearch.dipoles.arms import (
    AMONG_OTHERS,
    CHARGES_SMOOTH,
    L0,
    L1,
    L1_ONE_BLOCK,
    L1_VECTOR,
    TWO_SITES,
    Arm,
    arms,
)
from hpsearch.dipoles.drawing import Line, Panel
from hpsearch.dipoles.experiment import train
from hpsearch.dipoles.networks import Estimator, ScalarReadout, features_given
from hpsearch.dipoles.systems import (
    Systems,
    axial_floor,
    bound,
    draw_dipoles,
    four_charges,
    two_sites,
)

ROOT = Path(__file__).resolve().parents[1]
HPSEARCH = str(Path(sys.executable).parent / "hpsearch")
ARMS = {(arm.case, arm.name): arm for arm in arms()}

MEAN_SQUARE = 13 / 12
"""E[p²] in (e Å)² of a magnitude that is uniform between 0.5 and 1.5 e Å."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(arm: Arm) -> Estimator:
    """A network in float64, calibrated, so that what is exact is seen to be."""
    torch.manual_seed(0)
    network = arm.build()
    network.calibrate(arm.draw(64, generator(1)))
    return network.double()


def double(systems: Systems) -> Systems:
    return replace(
        systems,
        dipoles=systems.dipoles.double(),
        positions=systems.positions.double(),
        vectors=systems.vectors.double(),
    )


def rotation(axis: tuple[float, float, float], angle: float) -> Tensor:
    """The rotation about ``axis`` by ``angle``, by Rodrigues' formula."""
    x, y, z = torch.tensor(axis, dtype=torch.float64) / math.hypot(*axis)
    cross = torch.tensor(((0.0, -z, y), (z, 0.0, -x), (-y, x, 0.0)), dtype=torch.float64)
    turned = math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return torch.eye(3, dtype=torch.float64) + turned


ABOUT_AXIS = rotation((0.0, 0.0, 1.0), 1.1)
ABOUT_ANY = rotation((1.0, -2.0, 0.5), 0.8)


def turned(systems: Systems, *which: int, by: Tensor) -> Systems:
    """The systems of ``two_sites`` and its kin with dipole 0 or 1, or both, turned alone."""
    vectors = systems.vectors.view(len(systems.counts), -1, 3).clone()
    for number in which:
        vectors[:, number] = vectors[:, number] @ by.T
    return replace(systems, dipoles=vectors[:, :2], vectors=vectors.flatten(0, 1))


# --- The bound and the systems --------------------------------------------------------------------


def test_the_bound_of_two_worked_systems() -> None:
    # Parallel, of 1 and 2 e Å: 4 * 1 * 4 = 16; at right angles: 0; at 60 degrees, 1 and 1: 1.
    dipoles = torch.tensor(
        [
            [[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]],
            [[1.0, 0.0, 0.0], [0.0, 1.5, 0.0]],
            [[1.0, 0.0, 0.0], [0.5, math.sqrt(0.75), 0.0]],
        ]
    )
    assert bound(dipoles) == pytest.approx(17 / 3)
    # The first lies along the axis, so seeing û·p1 and û·p2 decides it.
    assert axial_floor(dipoles) == pytest.approx(1 / 3)


def test_the_bound_is_eq_4_s() -> None:
    dipoles = draw_dipoles(200_000, generator())
    # 4 E[p1²] E[p2²] E[cos² θ], of which c1² c2², along the axis, is (1/9) / (1/3).
    expected = 4 * MEAN_SQUARE**2 / 3
    assert bound(dipoles) == pytest.approx(expected, rel=0.01)
    assert axial_floor(dipoles) == pytest.approx(2 / 3 * expected, rel=0.01)
    p1, p2 = dipoles.unbind(1)
    cosine = torch.nn.functional.cosine_similarity(p1, p2)
    assert float(cosine.mean()) == pytest.approx(0, abs=0.01)
    assert float(cosine.square().mean()) == pytest.approx(1 / 3, rel=0.01)


def test_the_bound_is_the_error_of_the_sum_of_squares() -> None:
    systems = two_sites(1000, generator())
    estimate = systems.dipoles.square().sum((1, 2))
    error = (estimate - systems.squared_total).square().mean()
    assert float(error) == pytest.approx(bound(systems.dipoles), rel=1e-5)


def test_every_case_has_the_same_dipoles() -> None:
    expected = two_sites(50, generator()).dipoles
    for arm in ARMS.values():
        assert torch.equal(arm.draw(50, generator()).dipoles, expected)


def test_the_distances_of_the_charges_decide_the_target() -> None:
    systems = double(four_charges(200, generator()))
    positions = systems.positions.view(-1, 4, 3)
    charges = 1.0 - 2.0 * systems.kinds.view(-1, 4).double()
    distances = torch.cdist(positions, positions)
    products = charges[:, :, None] * charges[:, None]
    by_pairs = -0.5 * (products * distances.square()).sum((1, 2))
    torch.testing.assert_close(by_pairs, systems.squared_total, rtol=1e-5, atol=1e-5)
    assert float((distances + 9 * torch.eye(4)).min()) > 0.5
    assert float(distances.max()) < 8.0


# --- What the networks can see --------------------------------------------------------------------


def test_an_l0net_is_given_nothing_that_rotates() -> None:
    systems = double(two_sites(20, generator()))
    other = turned(turned(systems, 0, by=ABOUT_AXIS), 1, by=ABOUT_ANY)
    before, after = features_given(systems, 0), features_given(other, 0)
    torch.testing.assert_close(before.scalars, after.scalars)
    assert before.vectors.numel() == 0
    assert not torch.allclose(systems.squared_total, other.squared_total)
    assert not torch.allclose(features_given(systems, 1).vectors, features_given(other, 1).vectors)


@pytest.mark.parametrize("case", [TWO_SITES, AMONG_OTHERS])
def test_an_l0net_does_not_see_the_angle(case: str) -> None:
    arm = ARMS[case, L0]
    network, systems = fresh(arm), double(arm.draw(20, generator()))
    torch.testing.assert_close(network(turned(systems, 0, by=ABOUT_ANY)), network(systems))


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_on_two_sites_no_l1net_sees_the_azimuth(blocks: int) -> None:
    """What docs/dipoles.md derives: p1⊥·p2⊥ is out of reach, whatever the depth."""
    shallow = ARMS[TWO_SITES, L1].build()
    assert isinstance(shallow, ScalarReadout)
    change = {"output_blocks": blocks}
    if blocks == 1:
        change |= {"output_scalars": 0, "output_vectors": 0}
    config = type(shallow.config).model_validate({**shallow.config.model_dump(), **change})
    arm = replace(ARMS[TWO_SITES, L1], build=lambda: ScalarReadout(config))
    network, systems = fresh(arm), double(two_sites(20, generator()))
    before, other = network(systems), turned(systems, 1, by=ABOUT_AXIS)
    assert not torch.allclose(other.squared_total, systems.squared_total)
    torch.testing.assert_close(network(other), before)
    assert not torch.allclose(network(turned(systems, 1, by=ABOUT_ANY)), before)


@pytest.mark.parametrize("name", [(AMONG_OTHERS, L1), (TWO_SITES, L1_VECTOR)])
def test_bare_sites_or_another_readout_show_the_azimuth(name: tuple[str, str]) -> None:
    arm = ARMS[name]
    network, systems = fresh(arm), double(arm.draw(20, generator()))
    other = turned(systems, 1, by=ABOUT_AXIS)
    assert not torch.allclose(network(other), network(systems), rtol=1e-3)


@pytest.mark.parametrize(("name", "seen"), [(L1_ONE_BLOCK, False), (L1, True)])
def test_one_block_adds_what_two_blocks_multiply(name: str, seen: bool) -> None:
    """Without a product of p1 and p2, f(p1, p2) is a sum of a function of each."""
    arm = ARMS[TWO_SITES, name]
    network, systems = fresh(arm), double(two_sites(20, generator()))
    first, second = (turned(systems, number, by=ABOUT_ANY) for number in (0, 1))
    both = turned(systems, 0, 1, by=ABOUT_ANY)
    mixed = network(systems) - network(first) - network(second) + network(both)
    assert (float(mixed.detach().abs().max()) > 1e-3) == seen


@pytest.mark.parametrize("name", ARMS, ids=" - ".join)
def test_every_estimate_is_invariant_when_all_turns_together(name: tuple[str, str]) -> None:
    arm = ARMS[name]
    network, systems = fresh(arm), double(arm.draw(20, generator()))
    whole = replace(
        systems,
        positions=systems.positions @ ABOUT_ANY.T,
        vectors=systems.vectors @ ABOUT_ANY.T,
    )
    torch.testing.assert_close(network(whole), network(systems))


# --- Training -------------------------------------------------------------------------------------


def trained(case: str, name: str, steps: int = 150) -> float:
    """The test error in units of the bound."""
    arm = ARMS[case, name]
    test = arm.draw(1000, generator())
    return train(arm, 0, steps, test).errors[-1] / bound(test.dipoles)


@pytest.mark.slow
@pytest.mark.parametrize("case", [TWO_SITES, AMONG_OTHERS])
def test_an_l0net_settles_at_the_bound(case: str) -> None:
    assert 0.97 < trained(case, L0) < 1.1


@pytest.mark.slow
def test_an_l1net_on_two_sites_settles_at_two_thirds_of_it() -> None:
    dipoles = two_sites(1000, generator()).dipoles
    least = axial_floor(dipoles) / bound(dipoles)
    assert 0.97 * least < trained(TWO_SITES, L1) < 1.15 * least


@pytest.mark.slow
@pytest.mark.parametrize("name", [(AMONG_OTHERS, L1), (TWO_SITES, L1_VECTOR)], ids=" - ".join)
def test_where_the_vectors_can_be_multiplied_the_error_falls_far_below(
    name: tuple[str, str],
) -> None:
    assert trained(*name) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", [L0, L1])
def test_of_charges_distances_suffice(name: str) -> None:
    assert trained(CHARGES_SMOOTH, name) < 0.5


def test_a_training_is_a_function_of_its_seed() -> None:
    arm = ARMS[TWO_SITES, L1_VECTOR]
    test = arm.draw(50, generator())
    torch.manual_seed(5)
    first = train(arm, 3, 4, test)
    drawn = torch.rand(1)
    torch.manual_seed(6)
    assert train(arm, 3, 4, test).errors == first.errors
    assert train(arm, 4, 4, test).errors != first.errors
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn), "the caller's random numbers were touched"
    assert first.steps == (0, 1, 2, 3, 4)


# --- Drawing --------------------------------------------------------------------------------------


def test_a_decade_is_as_high_as_another() -> None:
    points = ((0.0, 10.0), (5.0, 1.0), (10.0, 0.1))
    panel = Panel("a < b", (Line("L0", "#123456", points),), ((1.0, "bound"),))
    text = drawing.draw([panel, panel, panel], "steps", "error")
    root = ElementTree.fromstring(text)
    curves = re.findall(r'stroke="#123456" d="M([^h"]+)"', text)
    assert len(curves) == 3
    places = [tuple(map(float, pair.split())) for pair in curves[0].split("L")]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert y0 < y1
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert words.count("a < b") == 3
    assert words.count("L0") == 1
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    for element in root.iter():
        if "y" in element.attrib:
            assert 0 <= float(element.attrib["x"]) <= width
            assert 0 <= float(element.attrib["y"]) <= height


# --- The command ----------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HPSEARCH, "dipoles", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_the_command_writes_table_curves_and_drawings(tmp_path: Path) -> None:
    done = run(tmp_path, "-o", "out", "--steps", "1", "--seeds", "2")
    assert (done.returncode, done.stderr) == (0, "")
    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {f"dipoles.{ending}" for ending in ("csv", "html", "md", "svg")}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    rows = list(csv.DictReader(files["dipoles.csv"].splitlines()))
    assert len(rows) == len(ARMS) * 2 * 2
    assert {(row["systems"], row["network"]) for row in rows} == set(ARMS)
    assert {row["step"] for row in rows} == {"0", "1"}
    least = float(rows[0]["bound"])

    for (case, name), arm in ARMS.items():
        [line] = re.findall(rf"^{re.escape(case)} +{re.escape(name)}  .*$", done.stdout, flags=re.M)
        mine = [row for row in rows if (row["systems"], row["network"]) == (case, name)]
        last = [float(row["test_mse"]) / least for row in mine if row["step"] == "1"]
        assert f"{sum(last) / 2:.4f}" in line
        assert f"{arm.floor(two_sites(2000, generator()).dipoles) / least:.4f}" in line
        assert f"| {case} | {name} |" in files["dipoles.md"]
    assert ElementTree.fromstring(files["dipoles.svg"]).tag.endswith("svg")
    assert 'id="dipoles"' in files["dipoles.html"]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", files["dipoles.html"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "out", "--steps", "0"), "--steps must be at least 1, got 0"),
        (("-o", "out", "--seeds", "-1"), "--seeds must be at least 1, got -1"),
        (("-o", "out", "--steps", "many"), "'many' is not a valid integer"),
        (("-o", "there"), "'there' is a file"),
        (("-o", "there/out"), "'there/out' must be writable"),
        ((), "Missing option '-o'"),
    ],
)
def test_what_is_wrong_ends_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "there").write_text("")
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_documentation_shows_the_recorded_results() -> None:
    results = (ROOT / "docs" / "results" / "dipoles.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "dipoles.md").read_text(encoding="utf-8")
    rows = [line for line in results.splitlines() if line.startswith("| ")]
    assert len(rows) == len(ARMS) + 2
    for row in rows:
        assert row in page
