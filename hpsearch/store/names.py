"""Names of experiments: stored literally, and folders that they cannot escape."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from hpsearch.errors import InputError

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
