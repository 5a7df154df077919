"""A study that is renamed: in both tables at once, and found by its old name."""

from __future__ import annotations

import pytest
from support.commands import PLAIN_QUICK
from support.made_up import run_ablation, run_search, the_winner

from hpsearch.config.space import SearchSpace
from hpsearch.results.subject import Subject, subject
from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from hpsearch.search.verify import verify
from hpsearch.store import Store
from hpsearch.system.errors import InputError


def key(store: Store, name: str) -> int:
    found = store.study_id(name)
    assert found is not None
    return found


def more(store: Store, name: str, trials: int) -> list[str]:
    """Launch again; return what it says."""
    said: list[str] = []
    space = SearchSpace.parse(PLAIN_QUICK, "quick.yaml").with_overrides(trials=trials)
    launch_study(store, space, name=name, say=said.append)
    return said


def test_a_renamed_study_is_whole_and_goes_on(store: Store) -> None:
    winner = the_winner(run_search(store))
    run_ablation(store, winner)
    ablation = store.latest("ablation")
    assert ablation is not None
    store.leave()
    before, breaches = store.find("made-up", "study"), verify(store, "made-up").breaches
    store.rename_study(key(store, "made-up"), "Zoë's best")
    renamed = store.find("Zoë's best", "study")
    assert (renamed.id, renamed.former_names) == (before.id, ("made-up",))
    # The checkpoints stay where they are.
    assert renamed.folder_name == before.folder_name
    assert store.find("made-up", "study").name == "Zoë's best"
    assert Study.open(store, "made-up").name == "Zoë's best"
    assert verify(store, "Zoë's best").breaches == breaches
    assert subject(store, ablation).study == "Zoë's best"
    assert subject(store, "Zoë's best") == Subject("Zoë's best", ablation)
    # The same command goes on with it.
    assert more(store, "made-up", 5) == [
        "the study 'made-up' was renamed to 'Zoë's best', and continues"
    ]
    assert Study.open(store, "Zoë's best").counts().wanted == 5
    store.leave()
    # A second renaming keeps both old names, and the folder is of the first one.
    store.rename_study(key(store, "Zoë's best"), "third")
    assert store.find("Zoë's best").name == store.find("made-up", "study").name == "third"
    store.rename_study(key(store, "third"), "made-up")
    assert store.find("third").name == "made-up"
    assert store.find("third").former_names == ("made-up", "Zoë's best", "third")
    assert store.find("third").folder_name == before.folder_name


def test_a_name_that_is_used_is_refused(store: Store) -> None:
    run_search(store)
    store.leave()
    store.begin_experiment("study", "caf\u00e9", {})
    study = key(store, "made-up")
    for taken in ("caf\u00e9", "cafe\u0301"):
        with pytest.raises(InputError, match="has another study 'café'; choose another name"):
            store.rename_study(study, taken)
    with pytest.raises(InputError, match="must not be empty"):
        store.rename_study(study, " ")
    with pytest.raises(InputError, match="has no study with the key 99"):
        store.rename_study(99, "new")
    assert store.find("made-up").former_names == ()


def test_a_study_that_is_driven_keeps_its_name(store: Store, url: str) -> None:
    run_search(store)
    with (
        Store.open(url) as other,
        pytest.raises(InputError, match=r"while a launch drives it \(process \d+ on"),
    ):
        other.rename_study(key(store, "made-up"), "new")
    assert store.find("made-up").name == "made-up"
    assert store.study_id("made-up") is not None
