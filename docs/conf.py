"""The documentation as a site: ``make docs`` writes ``site/``.

The pages are the repository's own Markdown files; the README is the first page.
"""

from typing import Any

project = "hpsearch"
author = "the hpsearch authors"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**.md",
    "search_spaces/README.md",
    "storage/README.md",
    "dashboards/README.md",
]
suppress_warnings = ["toc.not_included"]  # docs/results/ is linked from other pages
myst_heading_anchors = 3
highlight_language = "text"  # most blocks show what a command prints
html_theme = "furo"
html_title = "hpsearch"
html_show_sphinx = False
html_copy_source = False

CONTENTS = """
```{toctree}
:hidden:

docs/tutorial
docs/own_molecules
docs/models
docs/python
docs/search
docs/questions
docs/glossary
docs/commands
search_spaces/README
storage/README
dashboards/README
docs/ablation
docs/dipoles
docs/convolution
docs/reliability
docs/slurm
docs/architecture
docs/decisions/README
CONTRIBUTING
CHANGELOG
```
"""


def setup(app: Any) -> None:
    """Append the table of contents to the first page; GitHub would not render it."""
    app.connect("source-read", _add_contents)


def _add_contents(app: Any, name: str, source: list[str]) -> None:
    del app
    if name == root_doc:
        source[0] += CONTENTS
    if name == "docs/decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"
