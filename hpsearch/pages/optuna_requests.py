"""Requests for Optuna's dashboard: checked first, because it answers bad ones with a traceback."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol, final
from urllib.parse import parse_qs

from hpsearch.pages.access import READING, Application, Environment, Respond, refuse
from hpsearch.results.csv_text import inert
from hpsearch.system.errors import InputError

Rename = Callable[[int, str], None]


class OptunaStorage(Protocol):
    """The part of Optuna's storage that finds studies and trials; both raise ``KeyError``."""

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name of a study."""

    def get_trial(self, trial_id: int) -> Any:
        """Return a trial."""


class _BadRequest(Exception):
    """A request that cannot be answered: its HTTP status and the reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@final
class OptunaRequests:
    """Passes valid requests on to Optuna's dashboard, version 0.21.

    Args:
        application: Optuna's dashboard.
        storage: the storage that it shows.
        rename: renames a study by its key. ``None`` if studies cannot be changed.
    """

    def __init__(
        self, application: Application, storage: OptunaStorage, rename: Rename | None
    ) -> None:
        self._application = application
        self._storage = storage
        self._rename = rename

    def __call__(self, environment: Environment, respond: Respond) -> Iterable[bytes]:
        """Answer one request."""
        # Optuna's dashboard fails without this header.
        environment.setdefault("HTTP_ACCEPT_ENCODING", "")
        path = environment.get("PATH_INFO", "/")
        try:
            self._check_keys(path)
            _check_query(environment)
            body = _body(environment) if path.startswith("/api/") else {}
            renamed = _RENAME.fullmatch(path)
            if renamed and self._rename and environment["REQUEST_METHOD"] == "POST":
                return self._renamed(int(renamed[1]), body, environment, respond)
        except _BadRequest as error:
            return refuse(environment, respond, error.status, error.reason)
        if path.startswith("/csv/"):
            return self._csv(environment, respond)
        answered: Iterable[bytes] = self._application(environment, respond)
        return answered

    def _check_keys(self, path: str) -> None:
        """Refuse a study or trial that does not exist."""
        found = _STUDY.match(path) or _TRIAL.match(path)
        if found is None:
            return
        for kind, key in found.groupdict().items():
            if key is None:
                continue
            read = {
                "study": self._storage.get_study_name_from_id,
                "trial": self._storage.get_trial,
            }[kind]
            try:
                if len(key) > _LONGEST_KEY or not 0 <= int(key) < 2**31:
                    raise KeyError
                read(int(key))
            except KeyError:
                raise _BadRequest(
                    "404 Not Found", f"there is no {kind} with the key {key[:20]}"
                ) from None

    def _renamed(
        self, study: int, body: Mapping[str, Any], environment: Environment, respond: Respond
    ) -> Iterable[bytes]:
        """Rename the study ourselves, because Optuna would copy its trials into a new study."""
        assert self._rename is not None
        if "study_name" not in body:
            raise _BadRequest("400 Bad Request", "study_name must be the new name, got none")
        try:
            self._rename(study, body["study_name"])
        except InputError as error:
            raise _BadRequest("400 Bad Request", str(error)) from None
        # The answer that Optuna's page expects is the study's entry in this list.
        asked = {**environment, "REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies"}
        _, _, listed = _whole_answer(self._application, asked)
        studies = json.loads(listed)["study_summaries"]
        entry = next(each for each in studies if each["study_id"] == study)
        content = json.dumps(entry).encode()
        length = ("Content-Length", str(len(content)))
        respond("201 Created", [("Content-Type", "application/json"), length])
        return [content]

    def _csv(self, environment: Environment, respond: Respond) -> Iterable[bytes]:
        """Answer with Optuna's CSV file, without cells that a spreadsheet would run."""
        # Optuna's value names an encoding that it does not use.
        kind = ("Content-Type", "text/csv; charset=utf-8")
        return changed_answer(self._application, environment, respond, "text/csv", _inert_csv, kind)


_LONGEST_KEY = 10
"""Digits of the largest key, 2^31 - 1."""

_STUDY = re.compile(
    r"/(?:api/studies|csv|artifacts|api/artifacts)/(?P<study>-?\d+)(?:/(?P<trial>-?\d+))?(?:/|$)"
)
_TRIAL = re.compile(r"/api/trials/(?P<trial>-?\d+)(?:/|$)")
_RENAME = re.compile(r"/api/studies/(\d+)/rename")


def _check_query(environment: Environment) -> None:
    for given in parse_qs(environment.get("QUERY_STRING", "")).get("after", []):
        if not re.fullmatch(r"[0-9]{1,18}", given):
            raise _BadRequest(
                "400 Bad Request", f"after must be the number of a trial, got '{given[:40]}'"
            )


_FIELDS: dict[str, tuple[type, ...]] = {
    "study_name": (str,),
    "directions": (list,),
    "remove_associated_artifacts": (bool,),
    "version": (int,),
    "body": (str,),
    "mode": (str,),
    "candidates": (list,),
    "clicked": (int,),
    "output_type": (str,),
    "artifact_key": (str, type(None)),
    "state": (str,),
    "values": (list, type(None)),
    "user_attrs": (dict,),
}
"""The types of the fields in requests of Optuna's dashboard."""

_ITEMS: dict[str, tuple[type, ...]] = {
    "directions": (str,),
    "candidates": (int,),
    "values": (int, float, str),
}
"""The types of the items of its lists."""


def _body(environment: Environment) -> dict[str, Any]:
    """Return the JSON object of a request that changes something; leave it to be read again."""
    if environment["REQUEST_METHOD"] in READING:
        return {}
    # The server has read the request, and checked its length.
    text = environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
    environment["wsgi.input"] = io.BytesIO(text)
    if not text and environment["REQUEST_METHOD"] == "DELETE":
        return {}
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise _BadRequest("400 Bad Request", "the request must contain a JSON object")
    for name, value in body.items():
        items = value if isinstance(value, list) else []
        if not isinstance(value, _FIELDS.get(name, object)) or not all(
            isinstance(item, _ITEMS.get(name, object)) for item in items
        ):
            raise _BadRequest("400 Bad Request", f"'{name[:40]}' has a value of a wrong type")
    # Optuna's dashboard reads it only with this type.
    environment["CONTENT_TYPE"] = "application/json"
    return body


def _inert_csv(content: bytes) -> bytes:
    text = io.StringIO(newline="")
    rows = csv.reader(io.StringIO(content.decode(), newline=""))
    csv.writer(text).writerows([inert(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def changed_answer(
    application: Application,
    environment: Environment,
    respond: Respond,
    kind: str,
    change: Callable[[bytes], bytes],
    header: tuple[str, str],
) -> Iterable[bytes]:
    """Answer with the application's document, changed if it is of the wanted media type.

    Args:
        application: makes the document.
        environment: of the request.
        respond: begins the answer.
        kind: the media type.
        change: returns the changed content.
        header: replaces the header of that name.
    """
    status, headers, body = _whole_answer(application, environment)
    given = {name.lower(): value for name, value in headers}
    if status.startswith("200") and given.get("content-type", "").startswith(kind):
        body = change(body)
        lost = {*_OF_THE_DOCUMENT, header[0].lower()}
        others = [pair for pair in headers if pair[0].lower() not in lost]
        headers = [*others, ("Content-Length", str(len(body))), header]
    respond(status, headers)
    return [body]


_OF_THE_DOCUMENT = ("content-length", "last-modified", "etag", "accept-ranges")
"""Headers that describe the application's document, which differs from the changed one."""


def _whole_answer(
    application: Application, environment: Environment
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return the status, the headers and the body of an answer."""
    begun: list[Any] = []
    parts = application(environment, lambda *arguments: begun.extend(arguments[:2]))
    with ExitStack() as stack:
        if callable(close := getattr(parts, "close", None)):
            stack.callback(close)
        body = b"".join(parts)
    status, headers = begun
    return status, headers, body
