"""Direct queries of Optuna's tables, without Optuna's classes, which take long to load."""

from __future__ import annotations

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Select,
    String,
    TableClause,
    and_,
    case,
    cast,
    column,
    delete,
    func,
    or_,
    select,
    table,
    update,
)

from hpsearch.store.records import (
    ORIGIN,
    PAUSED,
    STAGE,
    LedgerTrial,
    OpenTrials,
    TrialRecord,
    TrialState,
    local_time,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_studies = table("studies", column("study_id"), column("study_name"))
_trials = table(
    "trials",
    column("trial_id"),
    column("number"),
    column("study_id"),
    column("state"),
    column("datetime_start", DateTime),
    column("datetime_complete", DateTime),
)
_values = table(
    "trial_values",
    column("trial_id"),
    column("objective"),
    column("value"),
    column("value_type"),
)
_reported = table(
    "trial_intermediate_values",
    column("trial_intermediate_value_id"),
    column("trial_id"),
    column("step"),
    column("intermediate_value"),
    column("intermediate_value_type"),
)
_attributes = table(
    "trial_user_attributes",
    column("trial_user_attribute_id"),
    column("trial_id"),
    column("key"),
    column("value_json"),
)
_system_attributes = table(
    "trial_system_attributes",
    column("trial_system_attribute_id"),
    column("trial_id"),
    column("key"),
    column("value_json"),
)
_parameters = table(
    "trial_params",
    column("param_id"),
    column("trial_id"),
    column("param_name"),
    column("param_value"),
    column("distribution_json"),
)
_directions = table(
    "study_directions", column("study_id"), column("direction"), column("objective")
)


def study_id_of(connection: Connection, study: str) -> int | None:
    """Return Optuna's key of the study; ``None`` if Optuna has no study of that name."""
    query = select(_studies.c.study_id).where(_studies.c.study_name == study)
    return connection.execute(query).scalar_one_or_none()


def study_names(connection: Connection) -> dict[int, str]:
    """Return the name of each of Optuna's studies by its key."""
    query = select(_studies.c.study_id, _studies.c.study_name)
    return {row.study_id: row.study_name for row in connection.execute(query)}


def rename_in_optuna(connection: Connection, study_id: int, name: str) -> None:
    """Replace the name in Optuna's row of the study."""
    this = _studies.c.study_id == study_id
    connection.execute(update(_studies).where(this).values(study_name=name))


def trial_states(connection: Connection, study: str) -> list[TrialState] | None:
    """Return the study's rows by number; ``None`` if Optuna has no study of that name."""
    trials, study_id = _trials.c, study_id_of(connection, study)
    if study_id is None:
        return None
    query = (
        select(trials.number, trials.trial_id, trials.state)
        .where(trials.study_id == study_id)
        .order_by(trials.number, trials.trial_id)
    )
    return [TrialState(*row) for row in connection.execute(query)]


def open_trials(
    connection: Connection, study: str, expected: Sequence[int] | None
) -> OpenTrials | None:
    """Return the number of the study's trials in each state, and the RUNNING ones.

    Args:
        connection: to the store.
        study: name of the study.
        expected: ids of the trials that should be RUNNING. If they are, their rows are not read;
            ``None`` if that is not known.

    Returns:
        The trials; ``None`` if Optuna has no such study.
    """
    trials, study_id = _trials.c, study_id_of(connection, study)
    if study_id is None:
        return None
    state, sum_of_ids = cast(trials.state, String), func.sum(trials.trial_id)
    query = (
        select(state, func.count(), sum_of_ids)
        .where(trials.study_id == study_id)
        .group_by(trials.state)
    )
    found = {name: (count, int(ids)) for name, count, ids in connection.execute(query)}
    counts = {name: count for name, (count, _) in found.items()}
    # A row that has left makes the number smaller. If another one has come, which has a larger id,
    # the sum is larger. So the same number and the same sum mean the same rows.
    if expected is not None and found.get("RUNNING", (0, 0)) == (len(expected), sum(expected)):
        return OpenTrials(counts, None)
    rows = connection.execute(
        select(trials.number, trials.trial_id)
        .where(trials.study_id == study_id, state == "RUNNING")
        .order_by(trials.number, trials.trial_id)
    )
    return OpenTrials(counts, tuple(TrialState(*row, "RUNNING") for row in rows))


def count_trials(connection: Connection) -> list[tuple[str, int]]:
    """Return the number of Optuna's rows in each state, over all studies."""
    state = _trials.c.state
    query = select(state, func.count()).group_by(state).order_by(state)
    return [(name, count) for name, count in connection.execute(query)]


def count_refused(connection: Connection, study: str) -> int:
    """Return the number of the study's trials that exceeded its budget."""
    refused = _attributes.c.value_json == json.dumps("refused")
    return _count_attributes(connection, study, "failure", refused)


def count_paused(connection: Connection, study: str) -> int:
    """Return the number of the study's trials that wait at a rung."""
    waits = cast(_trials.c.state, String) == "RUNNING"
    known = _attributes.c.value_json != json.dumps(None)
    return _count_attributes(connection, study, PAUSED, and_(waits, known))


def attribute_values(connection: Connection, study: str, key: str) -> dict[int, Any]:
    """Return the attribute ``key`` of the study's trials that have it, by the trial's number."""
    studies, trials, attributes = _studies.c, _trials.c, _attributes.c
    query = (
        select(trials.number, attributes.value_json)
        .select_from(_attributes)
        .join(_trials, trials.trial_id == attributes.trial_id)
        .join(_studies, studies.study_id == trials.study_id)
        .where(studies.study_name == study, attributes.key == key)
        .order_by(trials.number)
    )
    return {number: json.loads(text) for number, text in connection.execute(query)}


def running_attributes(
    connection: Connection, study: str, keys: Collection[str]
) -> dict[int, dict[str, Any]]:
    """Return those attributes of the study's RUNNING trials that are in ``keys``, by their ids."""
    studies, trials, attributes = _studies.c, _trials.c, _attributes.c
    query = (
        select(attributes.trial_id, attributes.key, attributes.value_json)
        .select_from(_attributes)
        .join(_trials, trials.trial_id == attributes.trial_id)
        .join(_studies, studies.study_id == trials.study_id)
        .where(studies.study_name == study, attributes.key.in_(keys))
        .where(cast(trials.state, String) == "RUNNING")
    )
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial_id, key, text in fetched(connection, query):
        found[trial_id][key] = json.loads(text)
    return found


def _count_attributes(
    connection: Connection, study: str, key: str, those: ColumnElement[bool]
) -> int:
    """Return how many of the study's trials have the attribute ``key`` and are among ``those``."""
    studies, trials, attributes = _studies.c, _trials.c, _attributes.c
    query = (
        select(func.count())
        .select_from(_attributes)
        .join(_trials, trials.trial_id == attributes.trial_id)
        .join(_studies, studies.study_id == trials.study_id)
        .where(studies.study_name == study, attributes.key == key, those)
    )
    return int(connection.execute(query).scalar_one())


def best_trials(connection: Connection, study: str, count: int) -> set[int]:
    """Return the numbers of the ``count`` complete trials with the lowest values."""
    studies, trials, values = _studies.c, _trials.c, _values.c
    # On PostgreSQL the column has an enum type, which cannot be compared with a text.
    complete = cast(trials.state, String) == "COMPLETE"
    query = (
        select(trials.number)
        .join(_studies, studies.study_id == trials.study_id)
        .join(_values, values.trial_id == trials.trial_id)
        .where(studies.study_name == study, complete, values.value.is_not(None))
        .order_by(values.value, trials.number)
        .limit(count)
    )
    return set(connection.execute(query).scalars())


def forget_values(connection: Connection, trial_id: int, after: int) -> None:
    """Delete a trial's intermediate values after a step; Optuna has no function for it."""
    c = _reported.c
    these = (c.trial_id == trial_id) & (c.step > after)
    connection.execute(delete(_reported).where(these))


def read_directions(connection: Connection, study_id: int) -> tuple[str, ...]:
    """Return the direction of each objective of a study."""
    c = _directions.c
    # On PostgreSQL the column has an enum type.
    query = select(cast(c.direction, String)).where(c.study_id == study_id).order_by(c.objective)
    return tuple(connection.execute(query).scalars())


def read_trials(
    connection: Connection, study_id: int, number: int | None = None
) -> tuple[LedgerTrial, ...]:
    """Return a study's trials by number, or only the trial ``number``."""
    t = _trials.c
    these = t.study_id == study_id
    if number is not None:
        these &= t.number == number
    damage: defaultdict[int, list[str]] = defaultdict(list)

    def of_trials(table: TableClause, *columns: Any) -> Iterator[Any]:
        query = select(table.c.trial_id, *columns)
        joined = query.join_from(table, _trials, table.c.trial_id == t.trial_id).where(these)
        yield from fetched(connection, joined)

    values: dict[int, float | None] = {}
    for trial_id, objective, value in of_trials(_values, _values.c.objective, _values.c.value):
        if objective == 0:
            values[trial_id] = number_or(value, damage[trial_id], "a value")
    reported: defaultdict[int, dict[int, float]] = defaultdict(dict)
    r = _reported.c
    for trial_id, step, value in of_trials(_reported, r.step, r.intermediate_value):
        finite = number_or(value, damage[trial_id], "an intermediate value {}", step)
        if finite is not None:
            reported[trial_id][step] = finite
    attributes: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    a = _attributes.c
    for trial_id, key, text in of_trials(_attributes, a.key, a.value_json):
        attributes[trial_id][key] = json_or(None, text, damage[trial_id], f"an attribute {key}")
    parameters: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    p = _parameters.c
    for trial_id, name, value, text in of_trials(
        _parameters, p.param_name, p.param_value, p.distribution_json
    ):
        try:
            parameters[trial_id][name] = _reads_value(text)(value)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            damage[trial_id].append(f"has a parameter {name} that cannot be read")
    rows = connection.execute(
        select(t.trial_id, t.number, cast(t.state, String))
        .where(these)
        .order_by(t.number, t.trial_id)
    )
    return tuple(
        LedgerTrial(
            number,
            state,
            values.get(trial_id),
            reported.get(trial_id, {}),
            attributes.get(trial_id, {}),
            parameters.get(trial_id, {}),
            tuple(damage.get(trial_id, ())),
        )
        for trial_id, number, state in rows
    )


@functools.cache
def _reads_value(distribution: str) -> Callable[[float], Any]:
    """Return the function that makes a parameter's value of its stored number, as Optuna does.

    Args:
        distribution: as Optuna stores it. Optuna itself takes long to load.
    """
    stored = json.loads(distribution)
    kind, attributes = stored["name"], stored["attributes"]
    if kind == "FloatDistribution":
        return float
    if kind == "IntDistribution":
        return int
    if kind == "CategoricalDistribution":
        choices = tuple(attributes["choices"])
        return lambda number: choices[int(number)]
    raise ValueError(f"Optuna has no {kind}")


@functools.cache
def _distribution(text: str) -> BaseDistribution:
    """Return the distribution in ``text``; most texts occur in many trials."""
    from optuna.distributions import json_to_distribution

    return json_to_distribution(text)


def json_or(default: Any, text: Any, damage: list[str], what: str) -> Any:
    """Return the JSON in ``text``; if it is none, note it in ``damage``, return ``default``."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        damage.append(f"has {what} that is not JSON")
        return default


def number_or(value: Any, damage: list[str], what: str, *which: Any) -> float | None:
    """Return ``value`` as a number; if it is none, note that in ``damage`` and return ``None``.

    SQLite stores any text in a column of numbers.

    Args:
        value: as stored.
        damage: of the trial or run.
        what: what the value is, with a ``{}`` for each of ``which``.
        which: put into ``what`` only for a damaged value, because a store has millions of values.
    """
    if value is None or isinstance(value, (int, float)):
        return value
    damage.append(f"has {what.format(*which)} that is no number")
    return None


# --- Many trials at once --------------------------------------------------------------------------

FACTS = (
    *("weights", "host", "device", "zero_output_loss", "data_hash", "split_hash"),
    *("best_epoch", "test_loss", "seconds_per_epoch", "peak_memory_bytes"),
    *("quoted_epoch_seconds", "quoted_memory_bytes"),
    *("failure", "failure_reason", "failure_traceback", PAUSED, STAGE, ORIGIN),
)
"""The attributes of a trial that `trial_records` reads: all but the largest, its configuration."""


def trial_records(
    connection: Connection,
    study_id: int,
    *,
    numbers: Collection[int] | None = None,
    facts: bool = True,
    parameters: bool = True,
) -> list[TrialRecord]:
    """Return a study's trials by number. The number of rows read does not grow with the epochs.

    Args:
        connection: to the store.
        study_id: Optuna's key of the study.
        numbers: of the wanted trials, a few thousand at most; ``None`` for all.
        facts: whether the facts and the reported losses are read; without, the records have none,
            and a paused trial counts as running.
        parameters: the same for the parameters.
    """
    t, v = _trials.c, _values.c
    these = t.study_id == study_id
    if numbers is not None:
        these = and_(these, t.number.in_(sorted(numbers)))
    query: Select[Any] = (
        select(
            t.trial_id,
            t.number,
            t.state,
            v.value,
            v.value_type,
            t.datetime_start,
            t.datetime_complete,
        )
        .outerjoin_from(_trials, _values, and_(v.trial_id == t.trial_id, v.objective == 0))
        .where(these)
        .order_by(t.number, t.trial_id)
    )
    losses = _read_losses(connection, these) if facts else {}
    known = _read_facts(connection, these) if facts else {}
    sampled = _sampled_values(connection, these) if parameters else {}
    return [
        TrialRecord(
            number,
            _shown_state(state, known.get(trial_id, {})),
            _stored_number(value, kind),
            *losses.get(trial_id, (0, None, None)),
            started,
            ended,
            known.get(trial_id, {}),
            sampled.get(trial_id, {}),
        )
        for trial_id, number, state, value, kind, started, ended in fetched(connection, query)
    ]


def _shown_state(state: str, facts: Mapping[str, Any]) -> str:
    """Return the state that a person sees: Optuna has none for a trial that waits at a rung."""
    return "PAUSED" if state == "RUNNING" and facts.get(PAUSED) is not None else state


def _read_losses(
    connection: Connection, these: ColumnElement[bool]
) -> dict[int, tuple[int, float | None, float | None]]:
    """Return number, last and lowest of the losses reported for these trials, by their ids."""
    r, trial_id = _reported.c, _trials.c.trial_id
    ends = (
        select(
            trial_id,
            func.count().label("epochs"),
            func.min(r.intermediate_value).label("lowest"),
            func.max(r.step).label("last"),
        )
        .join_from(_trials, _reported, r.trial_id == trial_id)
        .where(these)
        .group_by(trial_id)
        .subquery()
    )
    query = select(
        r.trial_id,
        ends.c.epochs,
        ends.c.lowest,
        r.intermediate_value,
        r.intermediate_value_type,
    ).join_from(ends, _reported, and_(r.trial_id == ends.c.trial_id, r.step == ends.c.last))
    return {
        trial_id: (epochs, _stored_number(last, kind), lowest)
        for trial_id, epochs, lowest, last, kind in fetched(connection, query)
    }


def _read_facts(connection: Connection, these: ColumnElement[bool]) -> dict[int, dict[str, Any]]:
    """Return those attributes of these trials that are in :data:`FACTS`, by the trials' ids."""
    a = _attributes.c
    decoded: dict[str, Any] = {}  # most texts occur in many trials
    found = {}
    these = and_(these, a.key.in_(FACTS))
    for trial_id, *texts in _side_by_side(
        connection, a.trial_id, a.key, a.value_json, FACTS, these
    ):
        facts = found[trial_id] = dict[str, Any]()
        for key, text in zip(FACTS, texts, strict=True):
            if text is not None:
                if text not in decoded:
                    decoded[text] = json.loads(text)
                facts[key] = decoded[text]
    return found


def _sampled_values(
    connection: Connection, these: ColumnElement[bool]
) -> dict[int, dict[str, Any]]:
    """Return the parameters of these trials, by the trials' ids."""
    p = _parameters.c
    first = (
        select(func.min(p.param_id).label("param_id"))
        .join_from(_trials, _parameters, p.trial_id == _trials.c.trial_id)
        .where(these)
        .group_by(p.param_name)
        .subquery()
    )
    # Any of a parameter's distributions: Optuna keeps their kind, their choices and so the values.
    kinds = (
        select(p.param_name, p.distribution_json)
        .join_from(first, _parameters, p.param_id == first.c.param_id)
        .order_by(p.param_id)
    )
    readers = {name: _reads_value(text) for name, text in connection.execute(kinds)}
    rows = _side_by_side(connection, p.trial_id, p.param_name, p.param_value, tuple(readers), these)
    return {
        trial_id: {
            name: read(value)
            for (name, read), value in zip(readers.items(), values, strict=True)
            if value is not None
        }
        for trial_id, *values in rows
    }


def _side_by_side(
    connection: Connection,
    trial_id: ColumnElement[int],
    key: ColumnElement[str],
    value: ColumnElement[Any],
    keys: Sequence[str],
    these: ColumnElement[bool],
) -> Iterator[Any]:
    """Yield a row for each trial: its id, then the value of each key, ``None`` if it has none.

    A row for each value would take several times as long to fetch.
    """
    if not keys:
        return
    columns = [func.max(case((key == name, value))).label(f"v{n}") for n, name in enumerate(keys)]
    # The trials' own id: SQLite reads the trials by it, and need not sort the values.
    wanted: list[Any] = [_trials.c.trial_id, *columns]
    query = (
        select(*wanted)
        .join(_trials, trial_id == _trials.c.trial_id)
        .where(these)
        .group_by(_trials.c.trial_id)
    )
    yield from fetched(connection, query)


def distributions_of(
    connection: Connection, study_id: int, numbers: Collection[int]
) -> dict[int, dict[str, BaseDistribution]]:
    """Return the distributions of these trials' parameters, by the trials' numbers."""
    t = _trials.c
    these = and_(t.study_id == study_id, t.number.in_(sorted(numbers)))
    rows = connection.execute(select(t.trial_id, t.number).where(these))
    by_id = {row.trial_id: row.number for row in rows}
    _, found = _read_parameters(connection, these)
    return {by_id[trial_id]: distributions for trial_id, distributions in found.items()}


def fetched(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    """Yield the rows, fetched many at a time, which takes half as long as one by one."""
    for part in connection.execute(query).partitions(10_000):
        yield from part


def _read_parameters(
    connection: Connection, these: ColumnElement[bool]
) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, BaseDistribution]]]:
    """Return the parameters and their distributions of these trials, by the trials' ids."""
    p = _parameters.c
    query: Select[Any] = (
        select(p.trial_id, p.param_name, p.param_value, p.distribution_json)
        .join_from(_parameters, _trials, p.trial_id == _trials.c.trial_id)
        .where(these)
        .order_by(p.param_id)
    )
    values: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    distributions: defaultdict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    for trial_id, name, value, text in fetched(connection, query):
        distribution = _distribution(text)
        values[trial_id][name] = distribution.to_external_repr(value)
        distributions[trial_id][name] = distribution
    return values, distributions


def _read_attributes(
    connection: Connection, of: Any, these: ColumnElement[bool]
) -> dict[int, dict[str, Any]]:
    """Return the attributes of these trials, by the trials' ids."""
    query = (
        select(of.c.trial_id, of.c.key, of.c.value_json)
        .join_from(of, _trials, of.c.trial_id == _trials.c.trial_id)
        .where(these)
        .order_by(*[each for each in of.c if each.name.endswith("_attribute_id")])
    )
    found: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    decoded: dict[str, Any] = {}  # most texts occur in many trials
    for trial_id, key, text in fetched(connection, query):
        value = decoded.get(text)
        if value is None:
            value = json.loads(text)
            if not isinstance(value, dict | list):  # those may be changed by their owner
                decoded[text] = value
        found[trial_id][key] = value
    return found


def _stored_number(value: float | None, kind: str | None) -> Any:
    """Return a number as Optuna stores it: infinities and NaN have a kind and no value."""
    if value is not None or kind is None:
        return value
    return {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}.get(kind)


def frozen_trials(
    connection: Connection,
    study_id: int,
    states: Collection[str] | None,
    included: Collection[int],
    *,
    later_than: int | None,
) -> list[FrozenTrial]:
    """Return a study's trials by id, as Optuna's own storage makes them.

    Args:
        connection: to the store.
        study_id: Optuna's key of the study.
        states: of the wanted trials; ``None`` for all.
        included: ids of wanted trials that are not later than ``later_than``.
        later_than: an id; the trials after it are wanted too. ``None`` for all trials.

    Raises:
        KeyError: there is no such study.
    """
    from optuna.trial import FrozenTrial, TrialState

    t, v, r = _trials.c, _values.c, _reported.c
    known = select(_studies.c.study_id).where(_studies.c.study_id == study_id)
    if connection.execute(known).scalar_one_or_none() is None:
        raise KeyError(f"there is no study with the id {study_id}")
    these = t.study_id == study_id
    if states is not None:
        these = and_(these, cast(t.state, String).in_(states))
    if later_than is not None:
        these = and_(these, or_(t.trial_id > later_than, t.trial_id.in_(sorted(included))))
    trials = connection.execute(
        select(t.trial_id, t.number, t.state, t.datetime_start, t.datetime_complete)
        .where(these)
        .order_by(t.trial_id)
    ).all()
    values: defaultdict[int, list[float]] = defaultdict(list)
    for trial_id, value, kind in fetched(
        connection,
        select(v.trial_id, v.value, v.value_type)
        .join_from(_values, _trials, v.trial_id == t.trial_id)
        .where(these)
        .order_by(v.trial_id, v.objective),
    ):
        values[trial_id].append(_stored_number(value, kind))
    reported: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, step, value, kind in fetched(
        connection,
        select(r.trial_id, r.step, r.intermediate_value, r.intermediate_value_type)
        .join_from(_reported, _trials, r.trial_id == t.trial_id)
        .where(these)
        .order_by(r.trial_intermediate_value_id),
    ):
        reported[trial_id][step] = _stored_number(value, kind)
    parameters, distributions = _read_parameters(connection, these)
    user, system = (
        _read_attributes(connection, of, these) for of in (_attributes, _system_attributes)
    )
    return [
        FrozenTrial(
            number=row.number,
            state=TrialState[row.state],
            value=None,
            values=values.get(row.trial_id),
            datetime_start=local_time(row.datetime_start),
            datetime_complete=local_time(row.datetime_complete),
            params=parameters.get(row.trial_id, {}),
            # Its own mapping, because Optuna may add parameters to it.
            distributions=dict(distributions.get(row.trial_id, {})),
            user_attrs=user.get(row.trial_id, {}),
            system_attrs=system.get(row.trial_id, {}),
            intermediate_values=reported.get(row.trial_id, {}),
            trial_id=row.trial_id,
        )
        for row in trials
    ]
