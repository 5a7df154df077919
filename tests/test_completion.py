"""What the shell is offered, and that it comes at once and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from support.commands import HPSEARCH, listing, run
from support.made_up import run_ablation, run_search, the_winner

from hpsearch.ablation.variants import VARIANT_NAMES
from hpsearch.cli import completion
from hpsearch.config.run import TrainingConfig
from hpsearch.report.write import FORMATS
from hpsearch.search.samplers import SAMPLERS
from hpsearch.store import DEFAULT_URL, Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a store that holds a study and an ablation."""
    folder = tmp_path_factory.mktemp("completion")
    with Store.create(f"sqlite:///{folder}/storage/hpsearch.db") as store:
        run_ablation(store, the_winner(run_search(store)), name="arms")
    yield folder


def offered(folder: Path, words: str, **variables: str) -> set[str]:
    """What bash is told for the last of ``words``."""
    asking = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    asking |= {"_HPSEARCH_COMPLETE": "bash_complete", **variables}
    done = run(folder, "env", *(f"{name}={text}" for name, text in asking.items()), HPSEARCH)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("hpsearch status ", {"plain,arms", "plain,made-up"}),
        ("hpsearch report m", {"plain,made-up"}),
        ("hpsearch verify ", {"plain,arms", "plain,made-up"}),
        ("hpsearch export-best ", {"plain,made-up"}),
        ("hpsearch launch quick --study ", {"plain,made-up"}),
        ("hpsearch ablate best.yaml --name ", {"plain,arms"}),
        ("hpsearch ablate paper", {"plain,paper_l1net", "file,paper"}),
        ("hpsearch launch quick --targets m", {"plain,mu"}),
        ("hpsearch launch quick --targets mu,U", {"plain,mu,U0", "plain,mu,U"}),
        ("hpsearch train best.yaml --targets U0,U,U", set()),
        ("hpsearch ablate x --variants L1Net,L0NetB", {"plain,L1Net,L0NetBothDeep"}),
        ("hpsearch launch quick --sampler t", {"plain,tpe"}),
        ("hpsearch train best.yaml --schedule c", {"plain,cosine", "plain,constant_cooldown"}),
        ("hpsearch report -o x --format html,l", {"plain,html,latex"}),
    ],
)
def test_names_are_offered(folder: Path, words: str, found: set[str]) -> None:
    assert offered(folder, words) == found


def test_a_named_store_is_asked(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{folder}/storage/hpsearch.db"
    assert offered(tmp_path, f"hpsearch status --storage {url} a") == {"plain,arms"}
    assert offered(tmp_path, "hpsearch status a", HPSEARCH_STORAGE=url) == {"plain,arms"}


@pytest.mark.parametrize(
    "url", ["", "sqlite:///none.db", "sqlite:///text", "nonsense", "postgresql://me@127.0.0.1:9/db"]
)
def test_without_a_store_nothing_is_said_or_made(tmp_path: Path, url: str) -> None:
    (tmp_path / "text").write_text("no database")
    before = listing(tmp_path)
    assert offered(tmp_path, "hpsearch status x", HPSEARCH_STORAGE=url) == set()
    assert listing(tmp_path) == before


QUICK = """
import sys
from hpsearch.cli import completion
completion.experiments(sys.argv[1], ["study"])
print(*sorted({"torch", "optuna", "sqlalchemy", "pandas", "numpy"} & set(sys.modules)))
"""


def test_nothing_heavy_is_imported_for_an_answer(folder: Path) -> None:
    url = f"sqlite:///{folder}/storage/hpsearch.db"
    done = run(folder, sys.executable, "-c", QUICK, url)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_the_choices_are_what_the_commands_take() -> None:
    assert DEFAULT_URL == completion.STORE
    assert tuple(SAMPLERS) == completion.SAMPLERS
    assert VARIANT_NAMES == completion.VARIANTS
    assert FORMATS == completion.FORMATS
    schedule = TrainingConfig.model_fields["schedule"].annotation
    assert set(get_args(schedule)) == set(completion.SCHEDULES)


def test_bash_completes_after_the_documented_line(folder: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "questions.md").read_text(encoding="utf-8")
    [line] = [each for each in page.splitlines() if "bash_source" in each]
    script = (
        f"{line}\nCOMP_WORDS=(hpsearch status made); COMP_CWORD=2\n"
        "_hpsearch_completion hpsearch; echo ${COMPREPLY[@]}"
    )
    path = f"{Path(HPSEARCH).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "made-up\n", done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_their_script(tmp_path: Path, shell: str) -> None:
    done = run(tmp_path, "env", f"_HPSEARCH_COMPLETE={shell}_source", HPSEARCH)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_HPSEARCH_COMPLETE" in done.stdout
