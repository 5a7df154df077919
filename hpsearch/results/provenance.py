"""The provenance of an ablation's numbers as a chain of links, each of them checked.

The chain is data → split → space → study → export → runs → code → environment. A link is compared
with other records, or with a value that this machine computes again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from hpsearch.ablation.plan import CellKey
from hpsearch.ablation.variants import VARIANTS, Match
from hpsearch.config.run import DataConfig, NetworkConfig, fingerprint
from hpsearch.config.space import content_hash
from hpsearch.data import own
from hpsearch.data.molecule import Molecules
from hpsearch.results.evidence import BY_HAND, Evidence, Link, disagreements, known, link, short
from hpsearch.results.findings import AblationFindings, SearchFindings
from hpsearch.results.split_link import split_link
from hpsearch.search.terms import most_wanted
from hpsearch.system.errors import HpsearchError


def molecules_at_hand(data: DataConfig) -> Molecules | None:
    """Return the molecules if this machine has them, else ``None``, since a report needs none."""
    try:
        return own.load(data)
    except HpsearchError:
        return None


def chain(
    ablation: AblationFindings, search: SearchFindings | None, molecules: Molecules | None
) -> tuple[Link, ...]:
    """Check every link from the molecules to the environment.

    If an older store lacks a record, the link is ``unknown``; no error is raised.

    Args:
        ablation: the ablation to check.
        search: the search that its configuration comes from; ``None`` if the store lacks it.
        molecules: this machine's molecules, to make the splits again; ``None`` if it has none.
    """
    seen = Evidence.of(ablation, search, molecules)
    return (
        _data(seen),
        split_link(seen),
        _space(seen),
        _study(seen),
        _export(seen),
        _runs(seen),
        _code(seen),
        _environment(seen),
    )


# --- The links -----------------------------------------------------------------------------------


def _data(seen: Evidence) -> Link:
    """Check that the search, the export, every run and this machine have the same molecules."""
    recorded = [
        *known("the ablation", seen.ablation.get("data_hash")),
        *known("its baselines", (seen.ablation.get("data") or {}).get("data_hash")),
        *seen.recorded_by_runs("data_hash"),
        *known("the export", (seen.origin or {}).get("data_hash")),
        *known("the trial", seen.search.run.get("data_hash") if seen.search else None),
    ]
    if not recorded:
        return Link("data", "", "unknown", "no run has recorded its molecules")
    unknown = [] if seen.molecules else ["this machine has no molecules to compare with"]
    here = known("this machine", seen.molecules.content_hash) if seen.molecules else []
    sound = "the search, the runs and this machine have the same molecules"
    broken = disagreements([*recorded, *here])
    return link("data", short(recorded[0][1]), sound, broken, unknown)


def _space(seen: Evidence) -> Link:
    """Check that the export's space is the study's, and that the study's space has its hash."""
    if seen.origin is None:
        return Link("space", "", "unknown", seen.no_origin)
    recorded = str(seen.origin.get("space_hash"))
    value = f"{seen.origin.get('space_name', '')} {short(recorded)}".strip()
    stored = seen.search.provenance.get("space") if seen.search else None
    if (
        seen.search is None
        or not isinstance(stored, dict)
        or not isinstance(stored.get("content"), dict)
    ):
        return Link("space", value, "unknown", "the store does not have the study's space")
    broken = []
    if content_hash(stored["content"]) != stored.get("hash"):
        broken.append("the study's space was changed in the store: its hash differs")
    now = str(stored.get("hash"))
    if recorded != now and not _differs_in_trials(seen.search.provenance, recorded):
        broken += disagreements([("the export", recorded), ("the study", now)])
    sound = "the study's space; its hash was computed again from its content"
    return link("space", value, sound, broken, [])


def _differs_in_trials(study: Mapping[str, Any], recorded: str) -> bool:
    """Return whether the study's space, with another number of trials, has the hash ``recorded``.

    A launch may change the number of trials of a study. This changes the hash of the space.
    """
    content = study["space"]["content"]
    return any(
        content_hash({**content, "trials": trials}) == recorded
        for trials in range(1, most_wanted(study) + 1)
    )


def _study(seen: Evidence) -> Link:
    """Check that the trial is complete and that its best epoch has the exported loss."""
    if seen.origin is None:
        return Link("study", "", "unknown", seen.no_origin)
    trial, loss = seen.origin.get("trial"), seen.origin.get("validation_loss")
    value = f"{seen.origin.get('study')}, trial {trial}"
    search = seen.search
    if search is None:
        return Link("study", value, "unknown", "this store does not have the study")
    broken = []
    if search.state is None:
        broken.append(f"the study has no trial {trial}")
    elif search.state != "COMPLETE":
        broken.append(f"the trial is {search.state.lower()}, not complete")
    if search.best_loss is None or loss is None:
        missing = ["the trial's epochs are not recorded"]
        return link("study", value, "", broken, missing)
    if not math.isclose(search.best_loss, loss, rel_tol=1e-12):
        broken.append(
            f"the trial's best epoch has the loss {search.best_loss:.4g}, the export {loss:.4g}"
        )
    sound = f"the trial is complete, its best epoch has the exported loss {loss:.4g}"
    return link("study", value, sound, broken, [])


def _export(seen: Evidence) -> Link:
    """Check that the export's configuration is the trial's."""
    config = seen.export.get("config")
    if not config:
        return Link("export", "", "unknown", "the export is not recorded")
    mine = fingerprint(config)
    value = f"{seen.export.get('name', '')} {short(mine)}".strip()
    if seen.origin is None:
        return Link("export", value, "unknown", f"{BY_HAND}, not by a search")
    theirs = seen.search.run.get("fingerprint") if seen.search else None
    edited = bool(seen.origin.get("edited"))
    if theirs == mine:
        marked = ", although it is marked as edited" if edited else ""
        return Link("export", value, "unbroken", f"the trial's configuration{marked}")
    if edited:
        return Link("export", value, "broken", "edited after it was exported")
    if theirs is None:
        return Link("export", value, "unknown", "the store does not have the trial's configuration")
    another = f"the trial's configuration is {short(theirs)}, and no change is marked in the export"
    return Link("export", value, "broken", another)


def _runs(seen: Evidence) -> Link:
    """Check that each arm has one network, made from the export and with its own fingerprint."""
    if seen.runs.empty:
        return Link("runs", "", "unknown", "the ablation has no runs")
    arms = _networks_by_arm(seen.runs)
    broken = [
        f"the configuration of the run {key} has another fingerprint than recorded"
        for key, config, stored in zip(
            seen.runs["key"], seen.runs["configuration"], seen.runs["fingerprint"], strict=True
        )
        if fingerprint(config) != stored
    ]
    broken += [
        f"the runs of {arm} have more than one network" for arm in arms if len(arms[arm]) > 1
    ]
    unlike, unknown = _unlike_the_export(seen, arms)
    value = f"{len(seen.runs)} networks, {len(arms)} {'arm' if len(arms) == 1 else 'arms'}"
    sound = "every configuration has its fingerprint; the arms follow from the exported network"
    return link("runs", value, sound, broken + unlike, unknown)


def _networks_by_arm(runs: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return the distinct networks of each arm."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for key, config in zip(runs["key"], runs["configuration"], strict=True):
        networks = by_arm.setdefault(CellKey.parse(str(key)).variant, [])
        if (network := config.get("network")) not in networks:
            networks.append(network)
    return by_arm


def _unlike_the_export(
    seen: Evidence, arms: dict[str, list[dict[str, Any]]]
) -> tuple[list[str], list[str]]:
    """Return the paper's arms whose network does not follow from the exported network.

    Declared arms are not compared, because the store does not record their rules.
    """
    try:
        exported = NetworkConfig.model_validate((seen.export.get("config") or {})["network"])
    except (KeyError, ValueError):
        return [], ["the exported network is not recorded, or this version cannot read it"]
    match: Match = seen.ablation.get("match") or "dims"
    derived = {
        arm.name: arm.network_of(exported, match).model_dump(mode="json")
        for arm in VARIANTS
        if arm.name in arms
    }
    broken = [
        f"the network of {arm} does not follow from the exported network"
        for arm, network in derived.items()
        if network not in arms[arm]
    ]
    return broken, [] if derived else ["no arm follows from the exported network"]


def _code(seen: Evidence) -> Link:
    """Check that every launch ran the same commit, without uncommitted changes."""
    launches = seen.ablation.get("code") or []
    commits = [launch.get("git_commit") for launch in launches]
    if seen.origin is not None:
        commits = [seen.origin.get("git_commit"), *commits]
    named = [str(commit) for commit in dict.fromkeys(commits) if commit is not None]
    dirty = [_commit(commit) for commit in named if commit.endswith(_DIRTY)]
    broken = [f"there were uncommitted changes on {', '.join(dirty)}"] if dirty else []
    unknown = [] if launches else ["the launches have not recorded it"]
    if len(named) > 1:
        # Not "broken": each commit can be checked out again, and may compute the same numbers.
        listed = ", ".join(map(_commit, named))
        unknown.append(f"several commits, {listed}, which may not compute the same numbers")
    if None in commits:
        unknown.append("a launch did not run from a checkout, so its commit is not known")
    sound = "one commit for the search and the ablation, without uncommitted changes"
    if seen.origin is None:
        sound = "one commit for every launch, without uncommitted changes"
    return link("code", ", ".join(map(_commit, named)), sound, broken, unknown)


_DIRTY = "-dirty"


def _commit(commit: str) -> str:
    """Return the first digits of a commit, with its mark for uncommitted changes."""
    return short(commit.removesuffix(_DIRTY)) + (_DIRTY if commit.endswith(_DIRTY) else "")


def _environment(seen: Evidence) -> Link:
    """Check that every launch had the same versions of the packages that affect results."""
    launches = [launch.get("versions") for launch in seen.ablation.get("code") or []]
    sources = launches if seen.origin is None else [seen.origin.get("versions"), *launches]
    recorded = [versions for versions in sources if versions]
    unknown = [] if launches and len(recorded) == len(sources) else ["not every launch recorded it"]
    first = recorded[0] if recorded else {}
    broken = [
        difference for versions in recorded[1:] for difference in _version_changes(first, versions)
    ]
    value = ", ".join(f"{name} {version}" for name, version in first.items())
    sound = "the same versions in the search and in the ablation"
    if seen.origin is None:
        sound = "the same versions in every launch"
    return link("environment", value, sound, broken, unknown)


def _version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, "none"), after.get(name, "none")
        if old != new:
            yield f"{name} {old} → {new}"
