"""The documentation names every command and option, and what it points at exists.

``python tests/test_docs.py > docs/commands.md`` updates the reference of the commands.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hpsearch.cli.program import cli

ROOT = Path(__file__).resolve().parents[1]
COMMANDS_PAGE = ROOT / "docs" / "commands.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
SOURCES = sorted(
    file
    for folder in ("hpsearch", "tests", "benchmarks", "dashboards", "storage", "search_spaces")
    for pattern in ("*.py", "*.yaml", "*.md")
    for file in (ROOT / folder).rglob(pattern)
    if "runs" not in file.parts
)

HEAD = """# The commands

The output of `hpsearch COMMAND --help` for each command. Words are explained in the
[glossary](glossary.md). The shell can complete commands and options
([how](questions.md#does-the-shell-complete-commands)). To update this page, run
`python tests/test_docs.py > docs/commands.md`.
"""


def commands(
    group: click.Group, names: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, under the name that a person types."""
    for name, command in group.commands.items():
        path = (*names, name)
        if isinstance(command, click.Group):
            yield from commands(command, path)
        else:
            yield " ".join(("hpsearch", *path)), command


COMMANDS = dict(commands(cli))


def options(command: click.Command) -> set[str]:
    """Every spelling of every option, those of ``hpsearch`` itself included."""
    parameters = [*command.params, *cli.params]
    return {name for p in parameters for name in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}


def help_text(name: str) -> str:
    """What ``--help`` prints on a terminal of 80 columns."""
    settings = {**cli.context_settings, "max_content_width": 80, "terminal_width": 80}
    with click.Context(COMMANDS[name], info_name=name, **settings) as context:
        return context.get_help()


def commands_page() -> str:
    sections = [f"\n## {name}\n\n```\n{help_text(name)}\n```\n" for name in COMMANDS]
    return HEAD + "".join(sections)


def test_the_reference_is_what_help_prints() -> None:
    assert COMMANDS_PAGE.read_text(encoding="utf-8") == commands_page(), (
        "run: python tests/test_docs.py > docs/commands.md"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name: str) -> None:
    assert re.search(rf"{name}(?![\w-])", (ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    command = COMMANDS[name]
    # What the list of commands has room for on 80 columns, without dots for what was cut off.
    summary = command.get_short_help_str(limit=61)
    assert summary
    assert not summary.endswith("...")
    undocumented = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not undocumented
    assert f"Example:\n    {name}" in help_text(name)
    assert max(len(line) for line in help_text(name).splitlines()) <= 80


def typed_commands(text: str) -> Iterator[str]:
    """Command lines in code blocks and in backticks, comments cut off, broken lines joined."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.S)
    blocks += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ )?(hpsearch .*)", line.partition(" #")[0])
            if found:
                yield " ".join(found.group(1).split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_command_or_option_is_made_up(document: Path) -> None:
    if document == COMMANDS_PAGE:
        return
    for line in typed_commands(document.read_text(encoding="utf-8")):
        named = [name for name in COMMANDS if re.match(rf"{name}(?![\w-])", line)]
        known = options(COMMANDS[named[0]]) if named else set()
        if not named:
            # `hpsearch --debug COMMAND`, `hpsearch data`
            known = {name for command in COMMANDS.values() for name in options(command)}
            word = next((w for w in line.split()[1:] if not w.startswith("-")), "COMMAND")
            assert word in {"COMMAND", *cli.commands}, f"{line}: no such command"
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", line):
            assert option in known, f"{line}: no option {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), f"{link} in {document.name} leads nowhere"
            assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def anchors(document: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_decisions_that_are_referred_to_exist() -> None:
    notes = [path.name for path in (ROOT / "docs" / "decisions").glob("*.md")]
    numbers = [name[:4] for name in notes]
    assert len(set(numbers)) == len(numbers)
    for file in {*SOURCES, *DOCUMENTS}:
        for name in re.findall(r"decisions/(\d[\w-]*)", file.read_text(encoding="utf-8")):
            found = name in numbers or f"{name}.md" in notes
            assert found, f"{file.relative_to(ROOT)}: there is no docs/decisions/{name}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    # What `make docs` types.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "docs"), "-d", str(tmp_path / "cache"), str(ROOT), "site"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first = (tmp_path / "site" / "README.html").read_text(encoding="utf-8")
    assert 'href="docs/tutorial.html"' in first
    assert 'href="docs/commands.html"' in first


if __name__ == "__main__":
    print(commands_page(), end="")
