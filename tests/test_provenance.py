"""The chain behind an ablation's numbers: whole as recorded, broken where something is changed."""

from __future__ import annotations

import json
import shutil
import sqlite3

import numpy as np
import pytest
from support import whole_chain
from support.made_up import run_ablation, run_search, the_winner

from hpsearch.ablation.variants import VARIANTS, Variant
from hpsearch.config.export import Winner
from hpsearch.config.run import DataConfig
from hpsearch.data import qm9
from hpsearch.data.split import Split, make_split, save_split
from hpsearch.report.checks import provenance_section, verdict
from hpsearch.report.document import Document
from hpsearch.report.render import markdown
from hpsearch.results import provenance, split_link
from hpsearch.results.evidence import Link
from hpsearch.results.findings import Findings
from hpsearch.results.provenance import chain, molecules_at_hand
from hpsearch.search.study import Study
from hpsearch.store import Store
from hpsearch.system.errors import InputError

NAMES = ("data", "split", "space", "study", "export", "runs", "code", "environment")


def chain_of(store, ablation, molecules):
    """The chain behind the ablation of that name."""
    findings = Findings.read(store, ablation)
    return chain(findings.ablation, findings.search, molecules)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A database of a search and an ablation of two repeats, and the ablation's name."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    with Store.create(f"sqlite:///{path}") as store:
        name = whole_chain.ablate(store, whole_chain.search(store).winner(), repeats=2)
    return path, name


class Copy:
    """A copy of the database, to be changed behind the store's back."""

    def __init__(self, path, ablation):
        self.path = path
        self.ablation = ablation

    def chain(self, molecules="at hand"):
        with Store.open(f"sqlite:///{self.path}") as store:
            at_hand = molecules_at_hand(DataConfig()) if molecules == "at hand" else molecules
            return {link.name: link for link in chain_of(store, self.ablation, at_hand)}

    def execute(self, statement, *values):
        with sqlite3.connect(self.path) as connection:
            assert connection.execute(statement, values).rowcount > 0
        connection.close()

    def change(self, kind, edit):
        """``edit`` the provenance of the study or the ablation in place."""
        with sqlite3.connect(self.path) as connection:
            query = "select provenance from hpsearch_experiments where kind = ?"
            provenance = json.loads(connection.execute(query, (kind,)).fetchone()[0])
            edit(provenance)
            update = "update hpsearch_experiments set provenance = ? where kind = ?"
            connection.execute(update, (json.dumps(provenance), kind))
        connection.close()


@pytest.fixture
def copy(recorded, tmp_path):
    path, name = recorded
    return Copy(shutil.copy(path, tmp_path / "copy.db"), name)


@pytest.fixture
def fresh(tmp_path):
    with Store.create(f"sqlite:///{tmp_path}/fresh.db") as store:
        yield store


def states(links, state):
    return {link.name for link in links.values() if link.state == state}


# --- The chain


def test_what_belongs_together_is_unbroken(copy):
    links = copy.chain()
    assert tuple(links) == NAMES
    assert states(links, "unbroken") == set(NAMES), links
    assert verdict(tuple(links.values())) == (
        "The chain from the molecules to the code is unbroken."
    )
    assert links["data"].value == qm9.load().content_hash[:12]
    assert links["study"].value == "made-up, trial 1"
    assert links["runs"].value == "12 networks, 3 arms"
    assert links["code"].value == "0123456789ab"
    assert links["environment"].value == "hpsearch 0.1.0, torch 2.13.0"


def in_ablation(**changes):
    return lambda copy: copy.change("ablation", lambda p: p.update(changes))


def in_export(part, **changes):
    """An edit of the export that the ablation keeps: of its origin or its configuration."""

    def edit(stored):
        winner = stored["winner"]
        (winner[part] if part == "provenance" else winner["config"][part]).update(changes)

    return lambda copy: copy.change("ablation", edit)


def in_runs(column, value, key="L1Net/mu/0"):
    statement = f"update hpsearch_runs set {column} = ? where key = ?"
    return lambda copy: copy.execute(statement, value, key)


def in_config(part, **changes):
    """An edit of one cell's stored configuration, beside its fingerprint."""

    def edit(copy):
        with sqlite3.connect(copy.path) as connection:
            query = "select configuration from hpsearch_runs where key = 'L1Net/mu/1'"
            config = json.loads(connection.execute(query).fetchone()[0])
        connection.close()
        config[part].update(changes)
        in_runs("configuration", json.dumps(config), "L1Net/mu/1")(copy)

    return edit


def in_search(statement):
    return lambda copy: copy.execute(statement)


def in_launch(**changes):
    """Another launch of the ablation, with other code."""
    return lambda copy: copy.change("ablation", lambda p: p["code"].append(p["code"][0] | changes))


def in_space(copy):
    copy.change("study", lambda p: p["space"]["content"].update(seed=5))


def with_another_space(copy):
    other = whole_chain.space().model_copy(update={"seed": 5})
    copy.change("study", lambda p: p.update(space=other.to_provenance()))


COMMIT = whole_chain.CODE["git_commit"]
TORCH = whole_chain.CODE["versions"]

BREAKS = {
    "the launch's molecules": ("data", in_ablation(data_hash="x"), "the ablation x"),
    "a run's molecules": ("data", in_runs("data_hash", "x"), "the run L1Net/mu/0 has x"),
    "the export's molecules": (
        "data",
        in_export("provenance", data_hash="x"),
        "the export has x, the ablation",
    ),
    "a run's split": ("split", in_runs("split_hash", "x"), "the run L1Net/mu/0 has x, the launch"),
    "the launch's split": ("split", in_ablation(split_hash="x"), "the launch x"),
    "the export's split": ("split", in_export("provenance", split_hash="x"), "the export has x"),
    "the export's space": ("space", in_export("provenance", space_hash="x"), "the export x"),
    "the stored space": ("space", in_space, "was changed in the store"),
    "another space": ("space", with_another_space, "the study has"),
    "the trial's number": ("study", in_export("provenance", trial=9), "no trial 9"),
    "the trial's state": (
        "study",
        in_search("update trials set state = 'FAIL' where number = 1"),
        "fail, not complete",
    ),
    "the trial's losses": (
        "study",
        in_search("update hpsearch_epochs set validation_loss = 0.1 where run_id = 2"),
        "has the loss 0.1, the export 0.5",
    ),
    "the exported training": (
        "export",
        in_export("training", batch_size=7),
        "no change is marked in the export",
    ),
    "a run's training": (
        "runs",
        in_config("training", batch_size=7),
        "the configuration of the run L1Net/mu/1 has another fingerprint",
    ),
    "a run's network": (
        "runs",
        in_config("network", embedding_size=7),
        "the runs of L1Net have more than one network",
    ),
    "changed files": (
        "code",
        in_ablation(code=[{"versions": TORCH, "git_commit": f"{COMMIT}-dirty"}]),
        "uncommitted changes on 0123456789ab-dirty",
    ),
    "a version": (
        "environment",
        in_launch(versions={**TORCH, "torch": "2.14.0"}),
        "torch 2.13.0 → 2.14.0",
    ),
    "a missing package": (
        "environment",
        in_launch(versions={"hpsearch": "0.1.0"}),
        "torch 2.13.0 → none",
    ),
}
"""What is changed: the link that breaks, the change, and what is said."""

ALSO = {"the trial's number": {"export"}, "a run's molecules": {"split"}}
"""What else such a change leaves without a counterpart."""


@pytest.mark.parametrize("what", BREAKS)
def test_a_change_breaks_its_link_and_no_other(what, copy):
    name, damage, said = BREAKS[what]
    damage(copy)
    links = copy.chain()
    assert said in links[name].detail
    assert states(links, "broken") == {name}
    assert states(links, "unknown") <= ALSO.get(what, set())
    assert f"is broken at {name}" in verdict(tuple(links.values()))
    assert "\n" not in links[name].detail


def test_several_commits_are_named_and_not_called_the_same(copy):
    in_launch(git_commit="f" * 32)(copy)
    link = copy.chain()["code"]
    assert link.state == "unknown"
    assert "several commits, 0123456789ab, ffffffffffff" in link.detail


def test_another_split_of_the_same_size_is_found_by_making_it_again(copy):
    # All records agree with one another, and none with the configuration.
    copy.execute("update hpsearch_runs set split_hash = 'x'")
    copy.change("ablation", lambda p: p.update(split_hash="x"))
    copy.change("ablation", lambda p: p["winner"]["provenance"].update(split_hash="x"))
    links = copy.chain()
    assert links["split"].state == "broken"
    assert links["split"].detail.startswith("the search has x, the export makes ")
    assert "the run L1Net/mu/0 has x, its configuration makes " in links["split"].detail
    assert links["split"].detail.endswith("; and 10 more")


def test_test_molecules_that_the_search_has_seen_break_the_split(copy, monkeypatch):
    def overlapping(molecules, config):
        made = make_split(molecules, config)
        test = [*made.test, made.train[0]]
        return Split(made.train, made.validation, np.array(test), made.hash)

    monkeypatch.setattr(split_link, "make_split", overlapping)
    detail = copy.chain()["split"].detail
    assert "must be new to the search; 1 of 2,001" in detail


def test_other_molecules_on_this_machine_break_the_data_and_hide_the_split(copy):
    links = copy.chain(qm9.load().select(range(5_000)))
    assert "this machine has" in links["data"].detail
    assert states(links, "broken") == {"data"}
    assert states(links, "unknown") == {"split"}


def test_more_trials_leave_the_space_as_it_was(copy):
    def more(stored):
        stored["space"] = whole_chain.space(trials=7).to_provenance()
        stored["trials_wanted_most"] = 7

    copy.change("study", more)
    assert copy.chain()["space"].state == "unbroken"


def test_an_edited_export_is_said_to_be_edited(fresh):
    winner = whole_chain.search(fresh).winner()
    training = winner.config.training.model_copy(update={"batch_size": 9})
    origin = winner.provenance.model_copy(update={"edited": True})
    config = winner.config.model_copy(update={"training": training})
    edited = winner.model_copy(update={"config": config, "provenance": origin})
    name = whole_chain.ablate(fresh, edited)
    links = {link.name: link for link in chain_of(fresh, name, qm9.load())}
    assert states(links, "broken") == {"export"}
    assert links["export"].detail == "edited after it was exported"
    same = winner.model_copy(update={"provenance": origin})
    again = whole_chain.ablate(fresh, same, name="again")
    links = {link.name: link for link in chain_of(fresh, again, qm9.load())}
    assert states(links, "unbroken") == set(NAMES)
    assert "marked as edited" in links["export"].detail


def test_a_configuration_written_by_hand_has_no_search_to_check(fresh):
    config = whole_chain.search(fresh).winner().config
    name = whole_chain.ablate(fresh, Winner(name="mine", config=config))
    links = {link.name: link for link in chain_of(fresh, name, qm9.load())}
    assert states(links, "unknown") == {"space", "study", "export"}
    assert states(links, "broken") == set()
    assert "written by hand" in links["export"].detail


@pytest.mark.parametrize("match", ["dims", "params"])
def test_every_way_of_making_arms_is_derived_again(match, fresh):
    winner = whole_chain.search(fresh).winner()
    mine = Variant("Mine", "half the reach", lambda n: n, {"radial_maximum_angstrom": 3.0})
    name = whole_chain.ablate(
        fresh, winner, variants=["all"], declared=(mine,), match=match, vary_split=True, repeats=2
    )
    links = {link.name: link for link in chain_of(fresh, name, qm9.load())}
    assert states(links, "unbroken") == set(NAMES), links
    assert links["split"].value.count(",") == 1
    assert links["runs"].value == "24 networks, 6 arms"


def test_an_arm_that_does_not_derive_from_the_export_breaks_the_runs(fresh, monkeypatch):
    name = whole_chain.ablate(fresh, whole_chain.search(fresh).winner())
    other = Variant("L0NetDeep", "another rule", lambda n: n, {"embedding_size": 5})
    monkeypatch.setattr(provenance, "VARIANTS", (*VARIANTS[:2], other))
    links = {link.name: link for link in chain_of(fresh, name, qm9.load())}
    assert states(links, "broken") == {"runs"}
    assert links["runs"].detail.startswith("the network of L0NetDeep does not follow from")


# --- Old and odd stores


def test_a_launch_outside_a_checkout_leaves_the_code_unknown(copy):
    in_launch(git_commit=None)(copy)
    links = copy.chain()
    assert states(links, "unknown") == {"code"}
    assert "did not run from a checkout" in links["code"].detail


def test_a_split_file_that_is_gone_leaves_the_split_unknown(fresh, tmp_path):
    search = whole_chain.search(fresh).winner().config
    molecules = qm9.load()
    path = tmp_path / "split.json"
    save_split(make_split(molecules, search.data), molecules, path)
    data = DataConfig(split_file=str(path))
    by_hand = Winner(name="mine", config=search.model_copy(update={"data": data}))
    name = whole_chain.ablate(fresh, by_hand, variants=["L1Net"])
    assert {link.name: link.state for link in chain_of(fresh, name, molecules)}[
        "split"
    ] == "unbroken"
    path.unlink()
    split = {link.name: link for link in chain_of(fresh, name, molecules)}["split"]
    assert split.state == "unknown"
    assert "must be readable" in split.detail


def test_without_molecules_nothing_is_claimed_of_them(copy):
    links = copy.chain(None)
    assert states(links, "unknown") == {"data", "split"}
    assert states(links, "broken") == set()


@pytest.mark.parametrize(
    "kept", [(), ("winner",), ("identity", "data_hash", "split_hash"), ("code",), ("data",)]
)
def test_a_store_that_lacks_entries_is_unknown_and_no_error(kept, copy):
    def strip(stored):
        for key in set(stored) - set(kept):
            del stored[key]

    copy.change("ablation", strip)
    links = copy.chain()
    assert tuple(links) == NAMES
    assert states(links, "broken") == set()
    if "code" not in kept:
        assert {"code", "environment"} <= states(links, "unknown")
    if "winner" not in kept:
        assert {"space", "study", "export"} <= states(links, "unknown")


def test_an_ablation_that_has_begun_only_is_unknown(fresh):
    fresh.begin_experiment("ablation", "begun", {})
    links = chain_of(fresh, "begun", qm9.load())
    assert {link.state for link in links} == {"unknown"}
    assert all(isinstance(link, Link) and link.detail for link in links)


def test_a_search_in_another_store_is_unknown(copy, fresh):
    with Store.open(f"sqlite:///{copy.path}") as store:
        winner = Study.open(store).winner()
    name = whole_chain.ablate(fresh, winner)
    links = {link.name: link for link in chain_of(fresh, name, qm9.load())}
    assert states(links, "unknown") == {"space", "study", "export"}
    assert states(links, "broken") == set()


def test_made_up_hashes_are_found_out(fresh):
    name = run_ablation(fresh, the_winner(run_search(fresh)))
    links = {link.name: link for link in chain_of(fresh, name, qm9.load())}
    assert {"data", "export"} <= states(links, "broken")


def test_a_machine_without_molecules_still_reports(monkeypatch):
    def refuse(*_, **__):
        raise InputError("no package")

    monkeypatch.setattr(qm9, "load", refuse)
    assert molecules_at_hand(DataConfig()) is None


# --- The section


def test_the_section_says_each_link_and_sums_up(copy):
    copy.execute("update hpsearch_runs set split_hash = 'x' where key = 'L0Net/U0/1'")
    links = tuple(copy.chain().values())
    section = provenance_section(links)
    assert section.header == ("Link", "Value", "Check")
    assert [row[0] for row in section.rows] == list(NAMES)
    assert section.rows[1][2].startswith("broken: the run L0Net/U0/1 has x")
    assert section.remarks == ("The chain from the molecules to the code is broken at split.",)


def test_a_report_ends_its_ablation_with_both_sections(copy):
    with Store.open(f"sqlite:///{copy.path}") as store:
        text = markdown(Document.of(Findings.read(store)).sections)
    assert "The chain from the molecules to the code is unbroken." in text
    order = [
        "## The configuration",
        "## Validation and test",
        "## Where the",
        "## The winner",
    ]
    assert sorted(map(text.index, order)) == list(map(text.index, order))
