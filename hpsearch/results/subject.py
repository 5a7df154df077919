"""The study and the ablation that a report is about, and which of them belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpsearch.store import StoreReader


@dataclass(frozen=True)
class Subject:
    """The study and the ablation that a report is about.

    Attributes:
        study: name of the study; ``None`` without one.
        ablation: name of the ablation; ``None`` without one.
    """

    study: str | None
    ablation: str | None

    @property
    def name(self) -> str:
        """The ablation's name, else the study's."""
        return self.ablation or self.study or ""


def subject(store: StoreReader, name: str | None = None) -> Subject:
    """Return the study or ablation called ``name``, and the experiment that belongs to it.

    An ablation belongs to the study that its configuration was exported from, if the store has
    that study. A study's ablation is the last launched one of its exports. The default for ``name``
    is the study or ablation that was launched last.

    Raises:
        InputError: the store is empty, or has no experiment of that name.
    """
    last = store.find(name)
    if last.kind == "ablation":
        origin = _study_of(last.provenance)
        # The study's present name, if it was renamed.
        study = None if origin is None else store.experiment("study", origin)
        return Subject(None if study is None else study.name, last.name)
    experiments = store.experiments()
    ablations = experiments[experiments["kind"] == "ablation"]
    names = (last.name, *last.former_names)
    derived = ablations[ablations["provenance"].map(_study_of).isin(names)]
    return Subject(last.name, None if derived.empty else derived["name"].iloc[-1])


def _study_of(provenance: dict[str, Any]) -> str | None:
    origin = (provenance.get("winner") or {}).get("provenance")
    return None if origin is None else str(origin["study"])
