"""The three folders, in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.system import installation
from hpsearch.system.errors import HpsearchError, InputError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["search_spaces", "storage", "dashboards"])
def test_the_checkout_s_folders(name: installation.FolderName) -> None:
    assert installation.folder(name) == ROOT / name


def test_a_wheel_has_its_own(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "hpsearch"
    (package / "_shipped" / "storage").mkdir(parents=True)
    (tmp_path / "site-packages" / "storage").mkdir()
    assert installation.folder_of(package, "storage") == package / "_shipped" / "storage"


@pytest.mark.parametrize(
    ("text", "checkout"),
    [
        ('[project]\nname = "hpsearch"\n', True),
        ('[project]\nname = "other"\n', False),
        ("[tool]\n", False),
        ("project = 3\n", False),
        ("not toml", False),
    ],
)
def test_a_checkout_is_known_by_its_project(tmp_path: Path, text: str, checkout: bool) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    package = tmp_path / "hpsearch"
    expected = tmp_path / "storage" if checkout else package / "_shipped" / "storage"
    assert installation.folder_of(package, "storage") == expected


def test_a_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_PACKAGE", tmp_path / "hpsearch")
    with pytest.raises(HpsearchError, match="install hpsearch again"):
        installation.folder("storage")


@pytest.mark.parametrize("text", ["quick", "quick.yaml", "search_spaces/quick.yaml"])
def test_a_shipped_space_is_found_from_anywhere(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert installation.find_space(text) == ROOT / "search_spaces" / "quick.yaml"
    monkeypatch.chdir(ROOT)
    assert installation.find_space(text) == Path("search_spaces/quick.yaml")


def test_the_working_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text("mine")
    Path("table3").mkdir()
    assert installation.find_space("quick.yaml") == Path("quick.yaml")
    assert installation.find_space("quick") == ROOT / "search_spaces" / "quick.yaml"
    assert installation.find_space("table3") == ROOT / "search_spaces" / "table3.yaml"


@pytest.mark.parametrize(
    "text", ["quik", "../quick", "", "a\0b", "x" * 5000, "a\nb", "/etc/passwd/x"]
)
def test_an_unknown_space_lists_the_shipped(text: str) -> None:
    with pytest.raises(InputError) as caught:
        installation.find_space(text)
    assert "paper_l1net, quick, table3, table3_log" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_near_name_is_offered() -> None:
    with pytest.raises(InputError, match=r"did you mean quick\?$"):
        installation.find_space("quik")
