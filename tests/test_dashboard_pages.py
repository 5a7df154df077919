"""Our pages beside Optuna's dashboard: over HTTP, and in a browser while a study is running."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import pytest
from support.commands import HPSEARCH, ONE, PLAIN_QUICK, SIZES, Process, free_port, get, run
from support.made_up import ERRORS, FACTS, metrics, run_ablation, run_search, the_winner
from support.sites import Answer, Site, served

import hpsearch.pages.files
import hpsearch.pages.server
from hpsearch.config.space import SearchSpace
from hpsearch.pages.files import load_pages
from hpsearch.pages.server import serve
from hpsearch.runs.messages import Completion
from hpsearch.search.launch import launch_study
from hpsearch.search.study import Study
from hpsearch.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(f"sqlite:///{tmp_path}/s.db") as store:
        run_search(store)
        yield store


@pytest.fixture
def site(store: Store) -> Iterator[Site]:
    with served(store) as site:
        yield site


def figure(site: Site, page: str, name: str = "made-up", tag: str | None = None) -> Answer:
    return site.ask(f"/pages/{page}/figure?study={name}", if_none_match=tag)


def test_the_list_leads_to_every_page_of_every_experiment(site: Site, store: Store) -> None:
    store.begin_experiment("ablation", "a & b", {})
    body = site.ask("/pages").body
    names = re.findall(r"<h2>(.*?)</h2>", body)
    assert names == ["ablation a &amp; b", "study made-up"]
    links = re.findall(r'href="(/pages/[^"]+)"', body)
    # Learning curves are of both.
    assert len(links) == len(hpsearch.pages.files.page_files()) + 1
    assert "/pages/cost?ablation=a%20%26%20b" in links
    assert all(site.ask(link).status == 200 for link in links)


def test_a_page_gets_a_store_that_it_cannot_write_into(
    store: Store, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpsearch.pages.files, "folder", lambda: tmp_path / "pages")
    (tmp_path / "pages").mkdir()
    text = "TITLE = 'Mine'\ndef figure(store, name): store.begin_experiment('study', 'x', {})\n"
    (tmp_path / "pages" / "mine.py").write_text(text)
    assert "'Snapshot' object has no attribute" in figure(site, "mine").body
    assert store.experiment("study", "x") is None


def test_a_page_names_its_neighbours_and_asks_only_this_server(site: Site) -> None:
    body = site.ask("/pages/targets?study=made-up").body
    assert "<title>Losses by target: made-up</title>" in body
    assert re.search(r'class="here" aria-current="page" href="/pages/targets\?study=made-up"', body)
    assert 'href="/pages/learning_curves?study=made-up"' in body
    assert 'href="/pages/parity?study=made-up"' not in body
    sources = re.findall(r'(?:src|data-source)="([^"]+)"', body)
    assert sources == [
        "/pages/targets/figure?study=made-up",
        "/pages/plotly.js",
        "/pages/follow.js",
    ]
    assert all(site.ask(source).status == 200 for source in sources)


def test_a_figure_is_drawn_anew_once_the_store_has_changed(site: Site, store: Store) -> None:
    first = figure(site, "learning_curves")
    assert first.status == 200
    tag = first.headers["ETag"]
    known = figure(site, "learning_curves", tag=tag)
    assert (known.status, known.body) == (304, "")

    study = launch_study(store, space(trials=4), name="made-up")
    assignment = study.next()
    study.started(assignment.key, FACTS)
    tag = figure(site, "learning_curves", tag=tag).headers["ETag"]
    study.epoch(assignment.key, metrics(1, assignment.config))
    after = figure(site, "learning_curves", tag=tag)
    assert after.status == 200
    before = {trace["name"] for trace in json.loads(first.body)["data"]}
    assert {trace["name"] for trace in json.loads(after.body)["data"]} - before == {"trial 4"}


def space(trials: int) -> SearchSpace:
    return SearchSpace.parse(PLAIN_QUICK, "quick.yaml").with_overrides(trials=trials)


def test_what_a_browser_may_keep_it_asks_for_again(site: Site) -> None:
    first = site.ask("/pages/plotly.js")
    assert first.headers["Cache-Control"] == "no-cache"
    assert site.ask("/pages/plotly.js", if_none_match=first.headers["ETag"]).status == 304


def test_a_body_that_nobody_reads_does_not_cut_off_the_answer(site: Site) -> None:
    # One in eight was, of answers larger than what the system keeps for a connection.
    sizes = {len(site.ask("/pages/plotly.js", body={"unread": "x" * 100}).body) for _ in range(60)}
    assert len(sizes) == 1
    assert min(sizes) > 1_000_000


def test_a_study_and_an_ablation_of_one_name_have_their_own_addresses(
    site: Site, store: Store
) -> None:
    run_ablation(store, the_winner(Study.open(store)), name="made-up")
    links = re.findall(r'href="(/pages/learning_curves[^"]*)"', site.ask("/pages").body)
    assert len(set(links)) == 2
    lines = {}
    for link in links:
        [source] = re.findall(r'data-source="([^"]+)"', site.ask(link).body)
        drawn = json.loads(site.ask(source).body)["data"]
        lines[link.partition("?")[2].partition("=")[0]] = {trace["name"] for trace in drawn}
    assert lines == {"study": {"trial 1", "trial 2", "trial 3"}, "ablation": set(ERRORS)}


def test_the_rows_behind_a_figure_are_beside_it(site: Site, store: Store) -> None:
    [link] = re.findall(r'href="([^"]+)" download=', site.ask("/pages/targets?study=made-up").body)
    answer = site.ask(link)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    head, *rows = answer.body.splitlines()
    assert head == "trial,epoch,target,symbol,loss,mae,unit"
    assert len(rows) == 3 * 12
    # The tag is of the store: what has not changed is not written again.
    assert site.ask(link, if_none_match=answer.headers["ETag"]).status == 304
    assert site.ask("/pages/targets/rows?study=made-up").status == 404


def test_a_name_in_a_title_is_no_markup(store: Store, site: Site) -> None:
    # As an older version, or somebody else, may have stored it.
    name = 'a <a href="http://example.org">link</a> & more'
    study = store.study_id("made-up")
    assert study is not None
    store.leave()
    store.rename_study(study, name)
    drawn = json.loads(site.ask(f"/pages/targets/figure?study={quote(name)}").body)
    shown = drawn["layout"]["title"]["text"]
    assert shown.startswith(
        'a &lt;a href="http://example.org"&gt;link&lt;/a&gt; &amp; more: losses'
    )


def test_nothing_to_show_is_null(site: Site) -> None:
    assert figure(site, "ablation").body == "null"


@pytest.mark.parametrize("path", ["nothing", "targets/other", "../shell.html", "shell.html", "a/b"])
def test_other_paths_are_not_found(site: Site, path: str) -> None:
    assert site.ask(f"/pages/{path}").status == 404


def test_a_page_that_fails_says_where(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pages").mkdir()
    monkeypatch.setattr(hpsearch.pages.files, "folder", lambda: tmp_path / "pages")
    (tmp_path / "pages" / "mine.py").write_text("TITLE = 'Mine'\ndef figure(s, n): return 1 / 0\n")
    (tmp_path / "pages" / "left.py").write_text("TITLE = 1 / 0\n")
    answer = figure(site, "mine")
    assert answer.status == 500
    assert answer.body == f"{tmp_path}/pages/mine.py:2: ZeroDivisionError: division by zero"
    for path in ("/pages", "/pages/mine"):
        assert "left.py:1: ZeroDivisionError: division by zero" in site.ask(path).body


def test_a_page_that_was_edited_is_drawn_anew(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpsearch.pages.files, "folder", lambda: tmp_path)
    text = "import plotly.graph_objects as go\nTITLE = 'Mine'\n"
    text += "def figure(store, name):\n    return go.Figure(go.Bar(y=[{}]))\n"
    drawn, tag = [], None
    for number in (1, 2):
        (tmp_path / "mine.py").write_text(text.format(number))
        answer = figure(site, "mine", tag=tag)
        drawn.append(json.loads(answer.body)["data"][0]["y"])
        tag = answer.headers["ETag"]
    assert drawn == [[1], [2]]


@pytest.mark.slow
def test_a_folder_of_pages_is_run_where_it_is_named_and_only_there(
    store: Store, tmp_path: Path
) -> None:
    text = "import plotly.graph_objects as go\nTITLE = 'Mine'\n"
    text += "def figure(store, name=None):\n    return go.Figure(go.Bar(y=[1]))\n"
    (tmp_path / "dashboards").mkdir()
    (tmp_path / "dashboards" / "mine.py").write_text(text)
    (tmp_path / "dashboards" / "broken.py").write_text("\nTITLE = 1 / 0\n")
    at = ["--storage", f"sqlite:///{tmp_path}/s.db"]
    done = run(tmp_path, HPSEARCH, "report", "-o", "report", *at, "--pages", "dashboards")
    assert done.returncode == 0
    assert 'id="study-mine"' in (tmp_path / "report" / "report.html").read_text()
    problem = f"{tmp_path}/dashboards/broken.py:2: ZeroDivisionError: division by zero"
    assert done.stderr == f"page left out: {problem}\n"

    port = free_port()
    command = (HPSEARCH, "dashboard", "--port", str(port), *at)
    with Process(tmp_path, *command, "--pages", "dashboards"):
        assert problem in get(port, "/pages")
        assert '"/pages/mine?study=made-up"' in get(port, "/pages/targets?study=made-up")
        assert json.loads(get(port, "/pages/mine/figure"))["data"][0]["y"] == [1]
        assert "Losses by target" in get(port, "/pages")
    with Process(tmp_path, *command):
        assert "mine" not in get(port, "/pages")
    done = run(tmp_path, HPSEARCH, "dashboard", *at, "--pages", "dashbords")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "'dashbords' does not exist" in done.stderr


def test_optunas_own_document_leads_to_the_pages(site: Site) -> None:
    for path in ("/dashboard", "/dashboard/studies/1/trials"):
        answer = site.ask(path, if_modified_since="Fri, 01 Jan 2100 00:00:00 GMT")
        assert answer.status == 200
        assert answer.body.count('<a href="/pages"') == 1
        assert int(answer.headers["Content-Length"]) == len(answer.body.encode())
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Last-Modified"] is None
    assert "hpsearch pages" not in site.ask("/static/bundle.js").body


FORWARD = "-N -L {port}:127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("connection", "is_here", "command"),
    [
        ("203.0.113.7 50122 192.0.2.10 22", True, f"ssh {FORWARD} me@192.0.2.10"),
        ("::1 1 2001:db8::5 2222", True, f"ssh -p 2222 {FORWARD} me@2001:db8::5"),
        # The environment is the login node's: the way to a compute node leads through it.
        ("203.0.113.7 50122 192.0.2.10 22", False, f"ssh {FORWARD} -J me@192.0.2.10 me@node7"),
        ("::1 1 2001:db8::5 2222", False, f"ssh {FORWARD} -J 'me@[2001:db8::5]:2222' me@node7"),
        (
            "203.0.113.7 50122 172.16.0.9 22",
            True,
            f"ssh {FORWARD} me@172.16.0.9\n"
            "                   (instead of 172.16.0.9, type the name that you log in to)",
        ),
        ("", True, None),
        ("garbage", True, None),
        ("UNKNOWN 65535 UNKNOWN 65535", True, None),
        # Of a shell that a batch system has started from another one.
        ("127.0.0.1 50122 127.0.0.1 22", True, None),
    ],
)
def test_over_ssh_it_says_the_tunnel(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    connection: str,
    is_here: bool,
    command: str | None,
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", connection)
    monkeypatch.setattr(hpsearch.pages.server, "_is_this_machine", lambda address: is_here)
    monkeypatch.setattr(hpsearch.pages.server, "getuser", lambda: "me")
    monkeypatch.setattr(hpsearch.pages.server.socket, "gethostname", lambda: "node7")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("stop"):
            raise KeyboardInterrupt

    port = free_port()
    with pytest.raises(KeyboardInterrupt):
        serve(store, "127.0.0.1", port, say)
    found = "\n".join(said[4:-1])
    assert found == ("" if command is None else "from your machine: " + command.format(port=port))


def test_an_address_of_this_machine_is_known_from_others() -> None:
    assert hpsearch.pages.server._is_this_machine("127.0.0.1")
    # Reserved for documentation: nobody's.
    assert not hpsearch.pages.server._is_this_machine("192.0.2.10")
    assert not hpsearch.pages.server._is_this_machine("2001:db8::5")


TRIALS = 12


@pytest.fixture
def long_store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(f"sqlite:///{tmp_path}/long.db") as store:
        run_search(store, TRIALS)
        yield store


# --- In a browser ---------------------------------------------------------------------------------

Opened: TypeAlias = Callable[[str], contextlib.AbstractContextManager[Any]]

POINTS = """
() => (document.getElementById('figure').data ?? []).reduce((sum, each) => sum + each.x.length, 0)
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[int]:
    """The port of a dashboard beside a launch that trains for as long as it is looked at."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        # Ray's sockets need a short path, which pytest's is not.
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp", prefix="t")))
        # A trial may end early; another then goes on.
        options = ["--epochs", "60", "--trials", "40", *SIZES, "--targets", "mu,U0", *ONE]
        command = (HPSEARCH, "launch", "quick.yaml", *options)
        launch = stack.enter_context(Process(tmp_path, *command, temporary=temporary))
        launch.read_until("trial 0: epoch 1,")
        stack.enter_context(Process(tmp_path, HPSEARCH, "dashboard", "--port", str(port)))
        get(port, "/pages")
        yield port


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    """Opens a page for a ``with`` block; in the end none may have complained.

    A page asks its dashboard again every few seconds: it is closed before its dashboard is.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    complaints: list[str] = []

    @contextlib.contextmanager
    def open_page(address: str) -> Iterator[Any]:
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"{address}: {error}"))
        page.on(
            "console",
            lambda said: said.type == "error" and complaints.append(f"{address}: {said.text}"),
        )
        page.goto(address)
        yield page
        page.close()

    yield open_page
    context.close()
    assert complaints == []


@pytest.mark.slow
def test_a_running_study_is_followed(running: int, opened: Opened) -> None:
    address = f"http://127.0.0.1:{running}"
    with opened(f"{address}/dashboard") as optuna:
        optuna.get_by_text("1. quick").wait_for()
        optuna.get_by_text("hpsearch pages").click()
        optuna.wait_for_url("**/pages")
        optuna.get_by_role("link", name="Learning curves").click()
        optuna.wait_for_selector("#figure .main-svg")
        seen = optuna.evaluate(POINTS)
        assert seen >= 1
        # It has been drawn once; whoever has hidden a curve keeps it hidden.
        optuna.locator("#figure .legendtoggle").first.click()
        optuna.wait_for_function(f"() => ({POINTS})() > {seen}", timeout=60_000)
        optuna.wait_for_function(
            "() => document.getElementById('figure')._fullData[0].visible === 'legendonly'"
        )
        assert optuna.inner_text("#state").startswith("as of ")


def test_every_page_of_a_search_is_drawn(long_store: Store, opened: Opened) -> None:
    with served(long_store) as site:
        address = f"http://127.0.0.1:{site.port}"
        pages = [page for page in load_pages()[0] if page.kind != "ablation"]
        assert len(pages) == 8
        for page in pages:
            with opened(f"{address}/pages/{page.name}?study=made-up") as seen:
                seen.wait_for_selector("#figure .main-svg")
                # The state is written after the drawing.
                seen.wait_for_function(
                    "() => document.querySelector('#state').innerText.startsWith('as of ')"
                )
                assert page.title in seen.title()
                # Another window has no other height: what stands below stays below.
                seen.set_viewport_size({"width": 900, "height": 500})
                seen.wait_for_function(
                    "() => document.querySelector('#figure .main-svg').clientWidth < 900"
                )
                below, figure_end = seen.evaluate(
                    "() => ['.rows', '#figure .main-svg'].map((part) =>"
                    " document.querySelector(part).getBoundingClientRect())"
                    ".map((box, which) => which ? box.bottom : box.top)"
                )
                assert below >= figure_end - 1, page.name
                drawn = seen.evaluate("() => document.getElementById('figure').data.length")
                assert drawn == len(page.figure(long_store, "made-up").data)


def test_a_figure_that_comes_later_is_as_wide_as_the_page(tmp_path: Path, opened: Opened) -> None:
    with (
        Store.create(f"sqlite:///{tmp_path}/later.db") as store,
        served(store) as site,
        opened(f"http://127.0.0.1:{site.port}/pages/learning_curves") as page,
    ):
        page.get_by_text("nothing to show yet").wait_for()
        run_search(store)
        page.wait_for_selector("#figure .main-svg")
        drawn, place = page.evaluate(
            "() => ['#figure .main-svg', 'main'].map((part) =>"
            " document.querySelector(part).getBoundingClientRect().width)"
        )
        assert place > 1000
        assert drawn == pytest.approx(place, abs=60)  # less its edges


def test_an_ablation_has_its_table_and_its_curves(store: Store, opened: Opened) -> None:
    winner = the_winner(Study.open(store))
    waiting = ["L0NetDeep/U0/1", "L1Net/U0/1"]
    name = run_ablation(store, winner, repeats=2, skip=waiting)
    with (
        served(store) as site,
        opened(f"http://127.0.0.1:{site.port}/pages/ablation?ablation={name}") as page,
    ):
        page.wait_for_selector("#figure .main-svg")
        page.wait_for_selector("#figure-learning_curves .main-svg")
        assert page.evaluate("() => document.getElementById('figure-learning_curves').data.length")
        headings = page.locator(".text h2").all_inner_texts()
        assert headings[:2] == ["Table 1: test errors", "Test errors over repeats"]
        assert page.locator(".text td", has_text="(1 repeat)").count() == 2
        # The rest comes in, and is shown without a reload.
        run_ablation(store, winner, repeats=2, name=name)
        page.locator(".text td", has_text="(1 repeat)").first.wait_for(state="detached")
        assert page.locator(".text td", has_text="±").count() >= 6


def test_what_was_chosen_in_a_menu_stays(long_store: Store, opened: Opened) -> None:
    visible = "() => document.getElementById('figure').data.map((t) => t.visible === true)"
    with (
        served(long_store) as site,
        opened(f"http://127.0.0.1:{site.port}/pages/parallel?study=made-up") as page,
    ):
        page.wait_for_selector("#figure .main-svg")
        page.locator(".updatemenu-header").click()
        page.locator(".updatemenu-dropdown-button").nth(3).click()
        chosen = [number == 3 for number in range(13)]
        assert page.evaluate(visible) == chosen
        study = launch_study(long_store, space(trials=TRIALS + 1), name="made-up")
        assignment = study.next()
        study.started(assignment.key, FACTS)
        study.epoch(assignment.key, metrics(1, assignment.config))
        study.finish(assignment.key, Completion(1, 1, 0.5))
        page.wait_for_function(
            f"() => document.getElementById('figure').layout.title.text.includes("
            f"'losses of {TRIALS + 1} complete')"
        )
        assert page.evaluate(visible) == chosen
