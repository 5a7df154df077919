"""The dashboard over real HTTP: who is let in, and what they may change."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from support.sites import QUOTED, TOKEN, Site, served, up
from support.store_examples import store_file

from hpsearch.pages.access import Guard, check_host, is_loopback
from hpsearch.pages.application import application
from hpsearch.pages.server import Limits, serve
from hpsearch.store import Store, StoreReader
from hpsearch.system.errors import InputError


@pytest.fixture(scope="module")
def kept() -> bytes:
    """The file of a store with one study."""

    def fill(store: Store) -> None:
        optuna.create_study(storage=store.optuna_storage, study_name="kept").ask()

    return store_file(fill)


@pytest.fixture
def store(kept: bytes, tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "s.db").write_bytes(kept)
    with Store.create(f"sqlite:///{tmp_path}/s.db") as store:
        yield store


@pytest.fixture
def site(store: Store) -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as stack:
        yield lambda *given, **options: stack.enter_context(served(store, *given, **options))


def names(store: Store) -> set[str]:
    return {study.study_name for study in store.optuna_reader.get_all_studies()}


READS = ["/", "/dashboard", "/api/meta", "/api/studies", "/api/studies/1", "/csv/1", "/pages"]
CHANGES = [
    ("DELETE", "/api/studies/1", {}),
    ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    ("POST", "/api/studies/1/rename", {"study_name": "other"}),
    ("POST", "/api/trials/1/tell", {"state": "Complete", "values": [0.0]}),
    ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"a": 1}}),
    ("PUT", "/api/studies/1/note", {"version": 1, "body": "x"}),
    ("PUT", "/api/studies/1/1/note", {"version": 1, "body": "x"}),
    ("PATCH", "/pages", {}),
]


def changed(store: Store) -> bool:
    """Whether anything that CHANGES could change is another than in the beginning."""
    reader = store.optuna_reader
    if names(store) != {"kept"}:
        return True
    [trial] = reader.get_all_trials(1)
    attributes = trial.user_attrs or reader.get_study_system_attrs(1)
    return bool(attributes) or trial.state != optuna.trial.TrialState.RUNNING


# --- Without a token ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:9", "[::1]:8080"])
def test_a_loopback_name_is_served(site: Any, host: str) -> None:
    assert site().ask("/api/studies", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "10.0.0.1", "", "[", None],
)
def test_a_name_that_was_rebound_to_this_machine_is_not(site: Any, store: Store, host: Any) -> None:
    up = site()
    for answer in (
        up.ask("/api/studies", host=host),
        up.ask("/api/studies/1", "DELETE", host=host),
        up.ask("/pages", host=host),
    ):
        assert answer.status == 403
        assert "localhost or 127.0.0.1" in answer.body
        assert "kept" not in answer.body
    assert names(store) == {"kept"}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://127.0.0.1:{port}", "sec_fetch_site": "cross-site"},
    ],
)
def test_another_site_changes_nothing(site: Any, store: Store, headers: Any) -> None:
    up = site()
    given = {name: value.format(port=up.port) for name, value in headers.items()}
    for method, path, body in CHANGES:
        answer = up.ask(path, method, body, content_type="text/plain", **given)
        assert (answer.status, "another site" in answer.body) == (403, True)
    assert not changed(store)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:{port}"},
        {"origin": "http://127.0.0.1:{port}"},
    ],
)
def test_the_dashboard_itself_may(site: Any, store: Store, headers: Any) -> None:
    up = site()
    given = {name: value.format(port=up.port) for name, value in headers.items()}
    method, path, body = CHANGES[2]
    assert up.ask(path, method, body, **given).status == 201
    assert names(store) == {"other"}


def test_odd_requests_are_no_error_of_the_server(
    site: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    up = site()
    odd = ["/static/none", "/static/%00", "/static/../x", "/static/a/%00b", "/static/" + "a" * 3000]
    for encoding in ("gzip", None):
        assert up.ask("/static/bundle.js", accept_encoding=encoding).status == 200
        assert up.ask("/favicon.ico", accept_encoding=encoding).status == 200
        assert {up.ask(path, accept_encoding=encoding).status for path in odd} <= {403, 404}
    for length in (b"abc", b"-1", b"", b"+5", b"5, 5", b"5.0", b"9" * 5000):
        with socket.create_connection(("127.0.0.1", up.port), timeout=20) as client:
            client.sendall(b"POST /api/studies HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in capfd.readouterr().err


HUGE = 10**30


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *[
            ("GET", path.format(key), 404)
            for key in (7, -1, 2**31, HUGE, "9" * 5000)
            for path in ("/csv/{}", "/api/studies/{}", "/api/studies/{}/plot/contour")
        ],
        ("GET", "/api/studies/1?after=x", 400),
        ("GET", "/api/studies/1?after=-1", 400),
        ("GET", "/api/studies/1?after=" + "1" * 5000, 400),
        ("GET", "/csv/1?trial_ids=x", 400),
        ("POST", f"/api/trials/{HUGE}/tell", 404),
        ("PUT", "/api/studies/1/7/note", 404),
        ("DELETE", f"/api/studies/{HUGE}", 404),
    ],
)
def test_bad_requests_are_answered_with_the_reason(
    site: Any, store: Store, method: str, path: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = site().ask(path, method)
    assert answer.status == status
    assert "Traceback" not in capfd.readouterr().err
    assert not changed(store)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b"[" * 100_000,
        b"\xff",
        *[
            json.dumps(given).encode()
            for given in (
                {"study_name": 5, "directions": ["minimize"]},
                {"study_name": "new", "directions": 3},
                {"study_name": "new", "directions": [3]},
                {"state": 3},
                {"state": "Complete", "values": 3},
                {"state": "Complete", "values": [None]},
                {"user_attrs": []},
                {"version": "x", "body": "text"},
                {"version": 1, "body": 3},
            )
        ],
    ],
)
def test_a_bad_body_is_refused(
    site: Any, store: Store, body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    up = site()
    for method, path, _ in CHANGES[1:-1]:
        connection = http.client.HTTPConnection("127.0.0.1", up.port, timeout=20)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert 400 <= answer.status < 500, (method, path, text)
    assert "Traceback" not in capfd.readouterr().err
    assert not changed(store)


def test_a_spreadsheet_runs_nothing_of_optunas_file(site: Any, store: Store) -> None:
    trial = store.optuna_reader.get_all_trials(1)[0]._trial_id
    store.optuna_by_hand.set_trial_user_attr(trial, "=1+1", '=HYPERLINK("http://example.org")')
    store.optuna_by_hand.set_trial_user_attr(trial, "number", -3)
    answer = site().ask("/csv/1")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    [head, row] = csv.reader(answer.body.splitlines())
    cells = dict(zip(head, row, strict=True))
    assert cells["UserAttribute =1+1"] == '\'=HYPERLINK("http://example.org")'
    assert cells["UserAttribute number"] == "-3"


def test_no_other_page_may_frame_it(site: Any) -> None:
    answer = site().ask("/dashboard")
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# --- With a token ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong-wrong-wrong-wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"cookie": "hpsearch_{port}=guess"},
        {"cookie": f"hpsearch_{{port}}={TOKEN}"},
        {"cookie": "hpsearch_{port}="},
        {"cookie": "=;[],\xff"},
    ],
)
def test_nothing_is_served_without_the_token(site: Any, store: Store, headers: Any) -> None:
    up = site(TOKEN)
    given = {name: value.replace("{port}", str(up.port)) for name, value in headers.items()}
    answers = [up.ask(path, **given) for path in [*READS, "/static/bundle.js", "/favicon.ico"]]
    answers += [up.ask(path, method, body, **given) for method, path, body in CHANGES]
    answers += [up.ask("/?token=wrong", **given), up.ask("/?token=", **given)]
    answers += [up.ask(f"/dashboard?token={QUOTED}", **given)]
    for answer in answers:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "HPSEARCH_TOKEN" in answer.body
        assert answer.headers["Set-Cookie"] is None
        assert TOKEN not in answer.body
    assert not changed(store)


def test_a_header_with_control_characters_is_refused(site: Any, store: Store) -> None:
    up = site(TOKEN)
    given = {"cookie": "=;\x7f[],\xff", "authorization": f"Bearer {TOKEN}"}
    answers = [up.ask(path, **given) for path in READS]
    answers += [up.ask(path, method, body, **given) for method, path, body in CHANGES]
    for answer in answers:
        assert answer.status == 400
        assert TOKEN not in answer.body
    assert not changed(store)


def test_the_login_gives_a_cookie_that_opens_everything(site: Any, store: Store) -> None:
    up = site(TOKEN)
    cookie = up.log_in()
    pair, *attributes = cookie.split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert TOKEN not in cookie
    assert TOKEN[:8] not in cookie
    for path in READS:
        answer = up.ask(path, cookie=f"other=1; {pair}")
        assert answer.status in (200, 302), path
        assert answer.headers["Referrer-Policy"] == "same-origin"
    assert json.loads(up.ask("/api/studies", cookie=pair).body)["study_summaries"]
    method, path, body = CHANGES[2]
    assert up.ask(path, method, body, cookie=pair, origin="http://evil.example").status == 403
    assert up.ask(path, method, body, cookie=pair).status == 201
    assert names(store) == {"other"}


def test_a_cookie_is_of_one_server(site: Any) -> None:
    first, second = site(TOKEN), site(TOKEN)
    value = first.log_in().split(";")[0].partition("=")[2]
    assert first.ask("/pages", cookie=f"hpsearch_{first.port}={value}").status == 200
    assert second.ask("/pages", cookie=f"hpsearch_{second.port}={value}").status == 401


def test_a_program_sends_the_token_as_a_header(site: Any) -> None:
    up = site(TOKEN)
    answer = up.ask("/api/studies", authorization=f"Bearer {TOKEN}", host="any.example:80")
    assert answer.status == 200
    assert up.ask("/pages", "HEAD", authorization=f"bearer {TOKEN}").status == 200


def test_tokens_are_compared_in_constant_time(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    monkeypatch.setattr(
        "hpsearch.pages.access.hmac.compare_digest", lambda a, b: compared.append(b) or a == b
    )
    up = site(TOKEN)
    pair = up.log_in().split(";")[0]
    assert up.ask("/pages", cookie=pair).status == 200
    assert up.ask("/pages", authorization=f"Bearer {TOKEN}").status == 200
    assert compared.count(TOKEN.encode()) == 2
    assert pair.partition("=")[2].encode() in compared


# --- Read only ------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, TOKEN])
def test_read_only_shows_all_and_changes_nothing(site: Any, store: Store, token: Any) -> None:
    up = site(token, read_only=True)
    headers = {"authorization": f"Bearer {TOKEN}"}
    for path in READS:
        assert up.ask(path, **headers).status in (200, 302)
    for method, path, body in CHANGES:
        answer = up.ask(path, method, body, **headers)
        assert (answer.status, "--read-only" in answer.body) == (403, True)
    assert not changed(store)


def test_a_reader_is_shown_whole_and_cannot_be_changed(store: Store, tmp_path: Path) -> None:
    with (
        StoreReader.open(f"sqlite:///{tmp_path}/s.db") as reader,
        # Even past the guard that refuses such requests, the database does.
        served(reader, read_only=False) as up,
    ):
        for path in READS:
            assert up.ask(path).status in (200, 302)
        for method, path, body in CHANGES[:7]:
            assert up.ask(path, method, body).status >= 400
    assert not changed(store)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES[:7])
def test_what_it_refuses_would_have_changed_something(
    site: Any, store: Store, method: str, path: str, body: Any
) -> None:
    assert not changed(store)
    assert site().ask(path, method, body).status in (201, 204)
    assert changed(store)


# --- The address ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.0.1", "example.org", "127.0.0.1.x"])
def test_an_address_that_others_reach_needs_a_token(host: str, store: Store) -> None:
    assert not is_loopback(host)
    with pytest.raises(InputError, match="HPSEARCH_TOKEN contains a token"):
        serve(store, host, 0, print)
    check_host(host, 0, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_this_machine_s_own_needs_none(host: str) -> None:
    check_host(host, 0, None)


def test_a_port_that_is_taken_is_said_with_another_one(store: Store) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(InputError) as caught:
            serve(store, "127.0.0.1", port, print)
    assert str(caught.value) == (
        f"the dashboard cannot listen on 127.0.0.1:{port}: Address already in use, "
        "perhaps by another dashboard; choose another port with --port"
    )
    with pytest.raises(InputError, match=r": bind.*: port must be 0-65535; choose another"):
        serve(store, "127.0.0.1", 80_000, print)


@dataclass
class Stopped(Exception):
    """Ends :func:`serve` at its last word."""


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        ("127.0.0.1", {}, ["everyone on this machine can create, rename and delete studies"]),
        ("127.0.0.1", {"read_only": True}, ["everyone on this machine can read everything"]),
        (
            "0.0.0.0",
            {"token": TOKEN},
            ["everyone who knows the token can", "/?token=TOKEN", "not encrypted"],
        ),
        ("::1", {}, ["http://[::1]:"]),
    ],
)
def test_it_says_what_may_be_changed(
    store: Store, host: str, options: Any, words: list[str]
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("stop"):
            raise Stopped

    with pytest.raises(Stopped):
        serve(store, host, 0, say, **options)
    assert all(word in "\n".join(said) for word in words)
    assert TOKEN not in "\n".join(said)


# --- Clients that are slow, silent or many --------------------------------------------------------

ANSWER = b"an answer that fits into no buffer of a socket" * 2**18


def answering(environment: Any, respond: Any) -> list[bytes]:
    """A short answer, and under ``/long`` one of megabytes."""
    body = ANSWER if environment["PATH_INFO"] == "/long" else b"short"
    respond("200 OK", [("Content-Length", str(len(body)))])
    return [body]


INCOMPLETE: dict[str, bytes] = {
    "silent": b"",
    "an empty line": b"\r\n\r\n",
    "half a header": b"GET / HTTP/1.1\r\nHost: loc",
    "half a body": b"POST /api/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n{",
}


@pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "with a token"])
@pytest.mark.parametrize("begin", INCOMPLETE.values(), ids=INCOMPLETE)
def test_a_crowd_of_incomplete_requests_locks_nobody_out(
    store: Store, begin: bytes, token: str | None
) -> None:
    limits = Limits(threads=4)
    crowd = 2 * limits.connections + 76
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(up(Guard(application(store), token), limits))
        headers = {"authorization": f"Bearer {TOKEN}"}
        before = time.monotonic()
        for _ in range(crowd):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            client.sendall(begin)
        # All of them were taken, and no person waits for the time limit of 20 seconds.
        assert Site(port).ask("/api/studies", **headers).status == 200
        assert Site(port).ask("/pages", **headers).status == 200
        assert time.monotonic() - before < limits.idle_seconds / 2


def test_a_connection_in_use_is_kept_at_the_limit() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(environment: Any, respond: Any) -> list[bytes]:
        if environment["PATH_INFO"] == "/slow":
            begun.set()
            go_on.wait(timeout=20)
        return answering(environment, respond)

    limits = Limits(threads=2, connections=16)
    with up(slow, limits) as port, contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as other:
        answer = other.submit(Site(port).ask, "/slow")
        assert begun.wait(timeout=20)
        for _ in range(4 * limits.connections):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert Site(port).ask("/").body == "short"
        go_on.set()
        assert answer.result().body == "short"


@pytest.mark.parametrize("drop", [b"x", b"\r\n\r\n"], ids=["a header", "empty lines"])
def test_a_byte_now_and_then_does_not_renew_the_time_limit(drop: bytes) -> None:
    with (
        up(answering, Limits(threads=2, idle_seconds=2)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=0.2) as client,
    ):
        before = time.monotonic()
        ended = False
        while not ended and time.monotonic() - before < 20:
            try:
                client.sendall(drop)
                ended = client.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended
        assert time.monotonic() - before > 1


def test_a_connection_that_is_used_again_is_kept() -> None:
    with up(answering, Limits(threads=2, idle_seconds=2)) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(5):
            client.request("GET", "/")
            kept = client.sock
            assert client.getresponse().read() == b"short"
            time.sleep(0.8)
        assert client.sock is kept
        client.close()


def test_a_client_that_reads_nothing_is_ended() -> None:
    with up(answering, Limits(threads=2, idle_seconds=1)) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(5)
        client.settimeout(20)
        assert Site(port).ask("/").body == "short"
        assert received(client) < len(ANSWER)


def received(client: socket.socket) -> int:
    """Bytes until the other side ends the connection."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(2**16):
            count += len(data)
    return count


def test_slow_answers_wait_for_a_thread_and_not_for_each_other() -> None:
    together = threading.Barrier(4)

    def slow(environment: Any, respond: Any) -> list[bytes]:
        together.wait(timeout=20)
        return answering(environment, respond)

    with up(slow, Limits(threads=4)) as port, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: Site(port).ask("/").body, range(8)))
    assert answers == ["short"] * 8


def test_a_request_may_not_be_longer_than_what_the_dashboard_reads() -> None:
    with up(answering, Limits(body_bytes=1000)) as port:
        assert Site(port).ask("/", "POST", {"text": "x" * 500}).status == 200
        assert Site(port).ask("/", "POST", {"text": "x" * 1500}).status == 413


@pytest.mark.parametrize(
    ("files", "connections"), [(-1, 512), (2**20, 512), (1024, 448), (256, 64), (100, 32)]
)
def test_connections_leave_files_for_the_store(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (files, files))
    assert Limits.of_this_process().connections == connections
