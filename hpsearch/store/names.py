"""Names of experiments: stored literally, and folders that they cannot escape."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from hpsearch.errors import InputError, close_to
from hpsearch.store.records import Kind

LONGEST_NAME = 200


def check_name(name: str, what: str = "study") -> str:
    """``name``, if it can be stored.

    Any text a person would type is fine, SQL and other scripts included: it is only ever a bound
    parameter. What is refused cannot be typed again, shown on a line or kept by PostgreSQL.

    Raises:
        InputError: the name is blank, too long, or has characters that cannot be shown.
    """
    a_what = f"an {what}" if what[:1] in "aeiou" else f"a {what}"
    if not name.strip():
        raise InputError(f"the name of {a_what} must not be empty")
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"the name of {a_what} must have at most {LONGEST_NAME} characters; got {len(name)}"
        )
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise InputError(
                f"the name of {a_what} must not contain control characters; "
                f"got U+{ord(character):04X}"
            )
    return name


_MADE_BY = {"study": "launch", "ablation": "ablate"}


def unknown_experiment(
    label: str, kinds: Sequence[Kind], name: str | None, names: Sequence[str]
) -> InputError:
    """What to tell of an experiment that a store does not have.

    Args:
        label: the store's.
        kinds: that were looked for.
        name: that was given; ``None`` for the experiment launched last.
        names: of the experiments of these kinds that the store has.
    """
    if name is None or not names:
        made = f"`hpsearch {_MADE_BY[kinds[0]]}` makes one"
        return InputError(f"the store {label} holds no {kinds[0]}; {made}")
    a_what = " or ".join({"study": "a study", "ablation": "an ablation"}[kind] for kind in kinds)
    close = close_to(name, names)
    return InputError(
        f"{a_what} must be one of those in the store {label}: {', '.join(names)}; got '{name}'"
        + (f"; did you mean '{close}'?" if close else "")
    )


def experiment_folder(name: str, identity: str) -> str:
    """A folder name for the experiment's runs: readable, unique and never a path.

    Args:
        name: the experiment's name, any text.
        identity: the experiment's own random text, so that namesakes in two stores that share a
            folder for runs do not continue each other's checkpoints.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].rstrip("-") or "study"
    digest = hashlib.sha256(f"{name}\n{identity}".encode()).hexdigest()
    return f"{slug}-{digest[:10]}"
