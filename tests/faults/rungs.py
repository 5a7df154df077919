"""Faults around the decisions of early stopping."""

from __future__ import annotations

from faults.case import Case
from faults.files import damage
from faults.inputs import Dashboard, refused
from faults.table import fault

DECISIONS = "kill at a pause, a promotion or a stop"
AWAY = "checkpoint of a paused trial damaged or gone"
EDITED = "rungs edited between launches"
ENDED = "paused trial ended by hand"

AT_DECISIONS = dict.fromkeys(("paused", "promoting", "promoted", "pruning", "pruned"), 1)
"""Before and after each decision is stored."""


def with_rungs(case: Case, epochs: str = "[1, 2]") -> None:
    """Let the trials of the case pause; half of them go on."""
    text = case.space.read_text()
    rungs = f"rungs: {{epochs: {epochs}, reduction: 2, tolerance: 0.0}}"
    case.space.write_text(text.replace("\nparameters:", f"\n{rungs}\n\nparameters:"))


def decided(case: Case) -> list[tuple[object, ...]]:
    """The stored decisions, in their order."""
    return case.store.rows(
        "SELECT d.sequence, r.key, d.kind, d.rung, d.epoch, d.loss FROM hpsearch_decisions d "
        "JOIN hpsearch_runs r ON r.id = d.run_id ORDER BY d.sequence"
    )


@fault(DECISIONS, tries=2, seconds=100, hits=AT_DECISIONS)
def driver_at_decisions(case: Case) -> None:
    """A decision that was stored is carried out by the next launch; none is made twice."""
    with_rungs(case)
    case.trials = 8
    # At the end of a search a trial is stopped in any case, so that comes last.
    names = ["paused", "promoting", "promoted"]
    case.random.shuffle(names)
    before: list[tuple[object, ...]] = []
    for name in [*names, "pruning", "pruned"]:
        launch, _ = case.stopped_at(name)
        case.kill_driver(launch, name)
        now = decided(case)
        assert now[: len(before)] == before, f"{before} became {now}"
        before = now
    case.finish()
    assert decided(case)[: len(before)] == before
    assert set(case.states().values()) == {"COMPLETE", "PRUNED"}


@fault(AWAY, tries=2, seconds=60, hits={"damaged": 1, "gone": 1})
def checkpoint_of_a_paused_trial(case: Case) -> None:
    """It is trained again from the start; the losses by which it was judged stay."""
    with_rungs(case)
    for how in ("damaged", "gone"):
        launch, _ = case.stopped_at("promoting")
        before = decided(case)
        [*_, key] = [row[1] for row in before if row[2] == "pause"]
        case.kill_driver(launch, how)
        for path in case.run_folder(int(str(key))).glob("*.safetensors"):
            if how == "gone":
                path.unlink()
            else:
                damage(case, path, "truncated")
        # Each of its epochs, at most two, is trained once more.
        case.faults += 2
        assert decided(case) == before
    case.finish()


@fault(EDITED, seconds=60, hits={"edited": 1})
def rungs_edited(case: Case) -> None:
    """Refused with the difference; forced, the study goes on with the rungs that it has."""
    with_rungs(case)
    launch, _ = case.stopped_at("promoting")
    case.kill_driver(launch, "edited")
    text = case.space.read_text()
    case.space.write_text(text.replace("epochs: [1, 2]", "epochs: [2]"))
    refused(case, "rungs.epochs: [1, 2] -> [2]")
    forced = case.launch("--force")
    assert forced.wait() == 0, forced.said()
    assert "the study keeps its rungs" in forced.output, forced.said()
    assert {row[4] for row in decided(case) if row[2] == "pause"} == {1, 2}
    case.check()


@fault(ENDED, seconds=60, hits={"ended": 1})
def paused_trial_ended(case: Case) -> None:
    """Ended by a user in Optuna's own dashboard, it counts at no rung and is replaced."""
    with_rungs(case)
    launch, _ = case.stopped_at("promoting")
    paused = [str(row[1]) for row in decided(case) if row[2] == "pause"]
    best = min((row[5], str(row[1])) for row in decided(case))[1]
    number = int(next(key for key in paused if key != best))
    [(trial_id,)] = case.store.rows("SELECT trial_id FROM trials WHERE number = ?", number)
    with Dashboard(case) as dashboard:
        dashboard.post(f"/api/trials/{trial_id}/tell", {"state": "Fail"})
    case.hit("ended")
    assert launch.wait() == 0, launch.said()
    assert case.states()[number] == "FAIL"
    assert ("failed", str(number)) in [(row[2], row[1]) for row in decided(case)]
    case.check(by_hand=[number])
    assert case.command("verify", "faults", "--storage", case.store.url).returncode == 1
