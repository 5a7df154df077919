"""Kills of the driver, of a worker, of Ray's own processes and of the database."""

from __future__ import annotations

import signal
import time

from faults.case import STUDY, Case
from faults.cluster import Cluster
from faults.launch import LONGEST_SECONDS, Launch
from faults.processes import kill, wait_until
from faults.stores import Sqlite
from faults.table import fault

LONGEST_PAUSE = 1.5
"""Seconds from the first epoch of a launch within which a random instant lies."""

DRIVER = "kill -9 of the driver"
WORKER = "kill -9 of a worker, the raylet or a node"
DATABASE = "database killed and restarted, or locked"
ENQUEUED = "kill while known configurations are enqueued"
UNTOLD = "kill between checkpoint and tell"


AT_FAILPOINTS = dict.fromkeys(
    (
        "asked",
        "mid-epoch",
        "checkpoint-renamed",
        "before-tell",
        "inside-tell",
        "reconciling",
        "exit",
    ),
    1,
)
"""Every named instant, once a try."""

# --- Driver -------------------------------------------------------------------------------------


@fault(DRIVER, tries=2, seconds=60, hits={"random": 4})
def driver_at_random(case: Case) -> None:
    """Whenever the driver dies, the same command goes on and ends with exactly the trials."""
    for _ in range(4):
        launch = case.training("--max-concurrent", "2")
        time.sleep(case.random.uniform(0, LONGEST_PAUSE))
        assert launch.code is None, "it ended before it could be killed"
        case.kill_driver(launch, f"random: {case.phase()}")
    case.finish("--max-concurrent", "2")


@fault(
    DRIVER,
    tries=3,
    seconds=90,
    hits=AT_FAILPOINTS,
)
def driver_at_failpoints(case: Case) -> None:
    """The same at every named instant, in an order of each try's own."""
    names = ["asked", "mid-epoch", "checkpoint-renamed", "before-tell", "inside-tell"]
    case.random.shuffle(names)
    # There is something to reconcile after a trial was left in training.
    names.insert(names.index("mid-epoch") + 1, "reconciling")
    for name in [*names, "exit"]:
        launch, _ = inside_tell(case) if name == "inside-tell" else case.stopped_at(name)
        case.kill_driver(launch, name)
    case.finish()


@fault(ENQUEUED, seconds=70, hits={"enqueuing": 1, "inside-commit": 1, "asked": 1})
def known_configurations(case: Case) -> None:
    """Each is trained once and comes first, whenever the driver dies."""
    case.trials = 6
    # No launch of the case: its epochs have the numbers of the study's trials.
    source = case.command(*case.arguments("--study", "first", "--trials", "2"))
    assert source.returncode == 0, source.stderr
    listed = case.folder / "starts.yaml"
    listed.write_text("start_with: [{study: first, best: 2, repeats: 2}]\n")
    enqueue = ("--enqueue", str(listed))
    launch, _ = case.stopped_at("enqueuing", *enqueue)
    case.kill_driver(launch, "enqueuing")
    launch, _ = case.stopped_at("enqueuing", *enqueue)
    into_the_commit(case, launch, "enqueuing")
    case.kill_driver(launch, "inside-commit")
    assert known(case) == [], "some of the trials were enqueued without the others"
    launch, _ = case.stopped_at("asked", *enqueue)
    case.kill_driver(launch, "asked")
    case.finish(*enqueue)
    assert known(case) == [0, 1, 2, 3]


def known(case: Case) -> list[int]:
    """The trials of the study that have a known configuration."""
    query = (
        "SELECT t.number FROM trial_user_attributes a JOIN trials t USING (trial_id) "
        "JOIN studies s USING (study_id) WHERE s.study_name = ? AND a.key = 'origin'"
    )
    return sorted(int(str(number)) for (number,) in case.store.rows(query, STUDY))


def inside_tell(case: Case) -> tuple[Launch, int]:
    """A driver that has written a verdict and is about to commit it."""
    launch, _ = case.stopped_at("before-tell")
    return launch, into_the_commit(case, launch, "before-tell")


def into_the_commit(case: Case, launch: Launch, name: str) -> int:
    """Let a driver that stands at ``name`` go on to its next commit; the process."""
    case.failpoints.arm("inside-commit")
    for path in case.failpoints.folder.glob(f"hit {name} *"):
        path.unlink()
    return launch.reach(case.failpoints, "inside-commit")


@fault(UNTOLD, seconds=30, hits={"before-tell": 1})
def driver_between_checkpoint_and_tell(case: Case) -> None:
    """A trial whose last checkpoint is written is told once, by the next launch, untrained."""
    launch, _ = case.stopped_at("before-tell")
    case.kill_driver(launch, "before-tell")
    assert case.states() == {0: "RUNNING"}
    last = case.finish()
    assert "trial 0: epoch" not in case.launches[1].output, "it was trained again"
    assert "trial 0: complete" in case.launches[1].output, last.said()


# --- Worker, raylet, node -----------------------------------------------------------------------

AT_THE_WORKER = ("mid-epoch", "checkpoint-renamed")


@fault(
    WORKER,
    tries=3,
    seconds=80,
    hits={"mid-epoch": 1, "checkpoint-renamed": 1, "before-tell": 1, "random": 3},
)
def worker_kills(case: Case) -> None:
    """Whoever trains may die: the search ends with exactly the trials, neighbours untouched."""
    phases = ["mid-epoch", "checkpoint-renamed", "before-tell", *["random"] * 3]
    case.random.shuffle(phases)
    launch = None
    for phase in phases:
        launch = _going(case, launch)
        if phase == "random":
            time.sleep(case.random.uniform(0, LONGEST_PAUSE))
            kill_some_worker(case, launch)
            continue
        case.failpoints.arm(phase)
        stopped = launch.reach(case.failpoints, phase)
        victim = stopped if phase in AT_THE_WORKER else case.random.choice(launch.workers())
        case.kill_worker(victim, phase)
    assert launch is not None
    launch.wait()
    case.finish("--max-concurrent", "2")


def kill_some_worker(case: Case, launch: Launch) -> None:
    """SIGKILL to one of the processes that train for ``launch``, or are about to."""
    workers = wait_until(launch.workers, "a worker")
    case.kill_worker(case.random.choice(workers), f"random: {case.phase()}")


def _going(case: Case, launch: Launch | None) -> Launch:
    """``launch`` with trials enough to be killed in, else one that extends the study.

    It has completed a trial since the last kill: three workers lost in a row would be taken for a
    fault of the search itself.
    """
    while True:
        if launch is None or launch.code is not None or case.trials - case.complete() < 4:
            if launch is not None:
                launch.signal(signal.SIGTERM)
                launch.wait()
            case.trials = case.complete() + 10
            launch = case.training("--max-concurrent", "2")
        if _completes_another(launch):
            return launch


def _completes_another(launch: Launch) -> bool:
    """Waits for it; false if the launch ends instead."""
    before = launch.output.count(": complete after")
    wait_until(
        lambda: launch.output.count(": complete after") > before or launch.code is not None,
        f"a complete trial: {launch.said()}",
        LONGEST_SECONDS,
    )
    return launch.code is None


@fault(WORKER, seconds=60, hits={"random": 1})
def raylet_killed(case: Case) -> None:
    """Without Ray the launch ends in words; no process stays, and the next one goes on."""
    # Ray takes half a minute to notice, and workers that are up go on meanwhile.
    case.trials = 60
    launch = case.training()
    time.sleep(case.random.uniform(0, LONGEST_PAUSE))
    [raylet] = launch.raylets()
    kill(raylet)
    case.hit(f"random: {case.phase()}")
    assert launch.wait() == 1, launch.said()
    assert len(launch.errors.splitlines()) == 1, launch.errors
    case.check_leftovers()
    case.trials = case.complete() + 2
    case.finish()


@fault(WORKER, seconds=90, hits={"random": 1})
def node_killed(case: Case) -> None:
    """A machine of a cluster may go: its trial is replaced, the other machine goes on."""
    with Cluster(case.folder) as cluster:
        launch = case.training("--address", cluster.address, "--max-concurrent", "2")
        time.sleep(case.random.uniform(0, LONGEST_PAUSE))
        cluster.kill_second()
        case.hit(f"random: {case.phase()}")
        assert launch.wait() == 0, launch.said()
    case.check()


# --- Database -----------------------------------------------------------------------------------


@fault(
    DATABASE,
    tries=3,
    seconds=60,
    hits={**AT_FAILPOINTS, "random": 3},
)
def database_kills(case: Case) -> None:
    """The run waits for its database and goes on; no trial ends because of it."""
    # Enough that something is left to ask in whatever order the phases come.
    case.trials = 20
    launch, _ = case.stopped_at("mid-epoch")
    launch.kill()
    case.faults += 1
    case.failpoints.disarm()
    phases = ["asked", "mid-epoch", "checkpoint-renamed", "before-tell", "inside-tell"]
    phases += ["random"] * 3
    case.random.shuffle(phases)
    launch, _ = case.stopped_at("reconciling")
    for phase in ["reconciling", *phases, "exit"]:
        if phase == "random":
            launch.read(r"^trial \d+: started")
            time.sleep(case.random.uniform(0, LONGEST_PAUSE / 3))
            kill_database(case, f"random: {case.phase()}")
        elif phase == "inside-tell":
            kill_database_in_tell(case, launch)
        else:
            if phase != "reconciling":
                case.failpoints.arm(phase)
            launch.reach(case.failpoints, phase)
            kill_database(case, phase)
    assert launch.wait() == 0, launch.said()
    case.check()
    assert set(case.states().values()) == {"COMPLETE"}, case.states()


def kill_database(case: Case, phase: str) -> None:
    """Kill it and bring it back; who stands at a failpoint goes on before or after that."""
    case.store.kill()
    if case.random.random() < 0.5:
        case.failpoints.disarm()
    time.sleep(case.random.uniform(0, 1.5))
    case.store.start()
    case.hit(phase)


def kill_database_in_tell(case: Case, launch: Launch) -> None:
    """Kill it while the driver tells a verdict."""
    case.failpoints.arm("before-tell")
    launch.reach(case.failpoints, "before-tell")
    if not isinstance(case.store, Sqlite):
        into_the_commit(case, launch, "before-tell")
        kill_database(case, "inside-tell")
        return
    # Whoever is inside has the lock: so the neighbour dies with it while the driver waits for it.
    neighbour = case.store.intrude()
    case.failpoints.disarm()
    time.sleep(0.5)
    neighbour.kill()
    neighbour.communicate()
    case.hit("inside-tell")


@fault(DATABASE, seconds=110, hits={"60 s": 1})
def database_away_for_a_minute(case: Case) -> None:
    """Locked by another process, or down, for 60 s: the run waits and goes on."""
    launch = case.training()
    if isinstance(case.store, Sqlite):
        neighbour = case.store.intrude()
        time.sleep(60)
        neighbour.kill()
        neighbour.communicate()
    else:
        case.store.kill()
        time.sleep(60)
        case.store.start()
    case.hit("60 s")
    assert launch.wait() == 0, launch.said()
    case.check()
    assert set(case.states().values()) == {"COMPLETE"}, case.states()
