"""The page in a real browser: sample, change the class, make a sample again by its address, errors, keys alone."""

from __future__ import annotations

import base64
import io
import re
import shlex
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from served import Gate, eventually, many_classes, mel_bundle, served, tiny_bundles, two_step_counts

import latentc_runtime
from latentc.cli import run
from latentc_runtime.bundle import open_bundle, write_manifest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
SECONDS = 60  # how long anything may take to appear: a busy machine takes its time, and no test is about it
sync_api.expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    bundles = [f"host={two_step_counts(folder / 'host')}", f"mel={mel_bundle(folder / 'mel')}"]
    bundles.append(f"many={many_classes(folder / 'many')}")
    with served(*bundles, preview=0.0, queue=4) as (web, app):
        yield web, app


@pytest.fixture
def page(browser):
    """A tab that fails the test if anything is loaded from elsewhere, or a script fails."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.set_default_timeout(SECONDS * 1000)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on(
        "request",
        lambda r: faults.append(r.url) if not r.url.startswith(("http://127.0.0.1:", "data:", "blob:")) else 0,
    )
    yield tab
    context.close()
    assert faults == []


def shows(tab, selector: str, text: str | re.Pattern[str] | None = None) -> None:
    """Waits until the element can be seen and has the text, as the page draws when its answers come."""
    sync_api.expect(tab.locator(selector)).to_be_visible()
    if text is not None:
        sync_api.expect(tab.locator(selector)).to_have_text(text)


def pictures(tab, count: int) -> list[bytes]:
    """The files of the finished tiles, once there are `count`."""
    tab.wait_for_selector(f".tile.done >> nth={count - 1}")
    sources = [tile.get_attribute("src") for tile in tab.query_selector_all(".tile.done img")]
    assert len(sources) == count
    return [base64.b64decode(source.partition(",")[2]) for source in sources]


def expected(app, name: str = "host", **arguments) -> list[bytes]:
    pipe = app.models[name].pipeline
    return [latentc_runtime.png(picture) for picture in pipe.images(pipe.sample(**arguments))]


def address(web, query: str = "") -> str:
    return f"{web.base_url}/?{query}".replace("//?", "/?")


def test_samples_and_a_change_of_class(server, page) -> None:
    web, app = server
    page.goto(address(web))
    shows(page, "#empty")
    page.fill("#f-per", "2")
    page.fill("#f-seed", "11")
    page.fill("#f-guidance", "2.5")
    page.click("#go")
    eight = expected(app, classes=[0, 0, 1, 1, 2, 2, 3, 3], seeds=11, guidance=2.5)
    assert pictures(page, 8) == eight
    shows(page, "#status", re.compile("^8 samples in"))
    captions = [tile.inner_text() for tile in page.query_selector_all(".caption")]
    assert captions == ["zero", "zero", "one", "one", "two", "two", "three", "three"]

    for number in (0, 1, 2, 7):  # 3 stays
        page.check(f"#class-{number}", force=True) if number == 7 else page.uncheck(f"#class-{number}", force=True)
    page.select_option("#f-steps", "2")
    page.keyboard.press("Control+Enter")
    four = expected(app, classes=[3, 3, 7, 7], seeds=11, guidance=2.5, steps=2)
    sync_api.expect(page.locator(".tile.done")).to_have_count(4)
    assert pictures(page, 4) == four


def test_many_classes_are_searched_by_name(server, page) -> None:
    web, app = server
    page.goto(address(web, "model=many&classes=1&per=1"))
    page.wait_for_selector(".chip")
    for text in ("Thing 30", "res 7", "12"):
        page.fill("#f-classes", text)
        page.keyboard.press("Enter")
    page.fill("#f-classes", "thing 99")
    page.click("#go")
    assert page.query_selector(".tile") is None  # the browser says that there is no such class
    page.fill("#f-classes", "")
    page.click(".chip >> nth=0")
    sync_api.expect(page.locator(".chip")).to_have_text(["thing 30", "thing 7", "thing 12"])
    page.click("#go")
    assert pictures(page, 3) == expected(app, "many", classes=[30, 7, 12], seeds=0)
    assert "classes=30,7,12" in page.url


def test_a_sample_is_made_again(server, page, tmp_path, monkeypatch) -> None:
    """By the address of the page, by that of the file, and by the command."""
    web, app = server
    page.goto(address(web, "model=host&classes=5,9&per=2&seed=40&guidance=3&steps=2"))
    wanted = pictures(page, 4)[2]
    page.click(".tile >> nth=2")
    shows(page, "#detail-title", "nine")
    command, link, file = (row.inner_text() for row in page.query_selector_all("#detail-again code"))
    assert web.get(file).content == wanted
    assert " --class nine " in command and "classes=nine&" in file

    monkeypatch.chdir(tmp_path)
    words = command.split()
    assert words[0] == "latentc" and run(words[1:]) == 0
    with Image.open(io.BytesIO(wanted)) as shown, Image.open("sample.png") as made:
        assert np.array_equal(np.asarray(shown), np.asarray(made))

    page.goto(link)
    assert pictures(page, 1) == [wanted] == expected(app, classes=[9], seeds=42, guidance=3.0, steps=2)


def test_a_full_queue_is_an_error_that_can_be_retried(server, page) -> None:
    web, app = server
    model = app.models["host"]
    gate = Gate(model.pipeline)
    gate.open.clear()
    threads = [
        threading.Thread(target=web.post, args=("/v1/models/host/sample",), kwargs={"json": {"classes": [1] * n}})
        for n in (1, 4)
    ]
    threads[0].start()
    eventually(lambda: model.scheduler.running == 1)
    threads[1].start()
    eventually(lambda: model.scheduler.waiting == 4)
    page.goto(address(web, "model=host&classes=2&per=1&seed=3"))
    shows(page, "#error", re.compile("E0614.*queue of `host` is full|queue of `host` is full.*E0614", re.DOTALL))
    gate.open.set()
    for thread in threads:
        thread.join()
    page.click("#retry")
    assert pictures(page, 1) == expected(app, classes=[2], seeds=3)
    sync_api.expect(page.locator("#error")).to_be_hidden()


def test_stopping_leaves_the_queue(server, page) -> None:
    web, app = server
    model = app.models["host"]
    gate = Gate(model.pipeline)
    gate.open.clear()
    page.goto(address(web, "model=host&classes=2&per=2&seed=3"))
    eventually(lambda: model.scheduler.running == 2)

    def left() -> float:
        return app.metrics.registry.get_sample_value("latentc_cancelled_total", {"model": "host"}) or 0.0

    before = left()
    page.click("#stop")
    shows(page, "#empty")
    shows(page, "#status", "Stopped after 0 samples")
    # The page shows that at once; the server learns it when the browser closes the connection.
    eventually(lambda: left() > before)
    gate.open.set()
    eventually(lambda: model.scheduler.running == 0)
    assert gate.runs == 1


def test_keys_alone_are_enough(server, page) -> None:
    web, _ = server
    page.goto(address(web, "model=host"))
    page.wait_for_selector("#f-seed")
    page.keyboard.press("n")
    page.wait_for_selector(".tile.done >> nth=15")
    seed = page.input_value("#f-seed")
    assert seed != "0" and f"seed={seed}" in page.url
    page.focus(".tile >> nth=0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    shows(page, "#detail")
    shows(page, "dd >> nth=0", str(int(seed) + 1))
    page.keyboard.press("ArrowRight")
    shows(page, "dd >> nth=0", str(int(seed) + 2))
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("#detail")).to_be_hidden()
    sync_api.expect(page.locator(".tile:focus img")).to_have_attribute("alt", f"zero, seed {int(seed) + 2}")


def test_conditions_are_uploaded_or_typed(server, page, tmp_path) -> None:
    web, app = server
    mel = np.arange(4, dtype=np.float32).reshape(1, 2, 2) / 4
    np.save(tmp_path / "some.npy", mel)
    wanted = expected(app, "mel", conditions={"mel": mel}, seeds=[6])
    page.goto(address(web, "model=mel"))
    page.fill("#f-per", "1")
    page.fill("#f-seed", "6")
    page.click("#go")
    shows(page, "#error", re.compile("`mel` is missing"))
    page.set_input_files("#f-mel-file", tmp_path / "some.npy")
    page.click("#go")
    assert pictures(page, 1) == wanted
    page.goto(address(web, "model=mel&per=1&seed=6&mel=0,0.25,0.5,0.75"))
    assert pictures(page, 1) == wanted


def test_downloads(server, page) -> None:
    web, app = server
    page.goto(address(web, "model=host&classes=1,4&per=3&seed=2"))
    pictures(page, 6)
    with page.expect_download() as got:
        page.click("#save")
    pipe = app.models["host"].pipeline
    samples = pipe.sample(classes=[1, 1, 1, 4, 4, 4], seeds=2)
    grid = latentc_runtime.grid(pipe.images(samples), columns=3, gap=2)
    with Image.open(got.value.path()) as made:
        assert np.array_equal(np.asarray(made.convert("L")), grid[..., 0])
    with page.expect_download() as got:
        page.click("#save-npz")
    assert np.array_equal(np.load(got.value.path())["samples"], samples)


def test_the_key_is_asked_for(browser, page, tmp_path) -> None:
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}", key="sesame") as (web, _):
        page.goto(address(web))
        page.wait_for_selector("#ask")
        page.fill("#key", "sesam")
        page.keyboard.press("Enter")
        shows(page, "#ask-why", "That key is wrong.")
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#f-seed")
        page.click("#go")
        pictures(page, 16)
        page.goto("about:blank")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_nothing_runs_over_the_edge(server, browser, width: int, scheme: str) -> None:
    web, _ = server
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.goto(address(web, "model=host&classes=1,4&per=3&seed=2"))
    pictures(tab, 6)
    tab.click(".tile >> nth=0")
    for element in ("body", "main", "#grid", "#detail", "#detail .facts"):
        box = tab.query_selector(element).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, element
    tab.close()


def test_the_page_of_the_interface_shows_every_address_and_tries_one(page, server) -> None:
    """From this server alone, as its content policy demands."""
    web, _ = server
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(f"{web.base_url}/docs")
    sync_api.expect(page.locator(".opblock-summary-path").first).to_be_visible()
    paths = page.locator(".opblock-summary-path").all_inner_texts()
    assert {path.replace("\u200b", "") for path in paths} == set(web.get("/openapi.json").json()["paths"])
    page.click("#operations-state-healthy_healthz_get .opblock-summary")
    page.click("text=Try it out")
    page.click("text=Execute")
    sync_api.expect(page.locator(".live-responses-table")).to_contain_text(re.compile(r'"status":\s*"ok"'))
    assert said == []


def test_names_in_recipes_mean_the_class(page, tmp_path) -> None:
    """Names that two classes share, that look like numbers or options, and that hold quotes, commas and umlauts."""
    names = ("crane, bird", "crane, machine", "7", "all", 'a "b"', "-x", "Große_Möwe", "1-2", "nine, IX", "it's")
    folder = tiny_bundles.host_bundle(tmp_path / "b")
    manifest = open_bundle(folder).manifest
    write_manifest(folder, replace(manifest, conditions=(replace(manifest.conditions[0], names=names),)))
    with served(f"host={folder}") as (web, _):
        page.goto(address(web, "model=host&classes=0,1,2,3,4,5,6,7,8,9&per=1&seed=40"))
        made = pictures(page, 10)
        for index, name in enumerate(
            ["0", "1", '"7"', '"all"', '"a ""b"""', "5", "Große_Möwe", '"1-2"', "nine", "it's"]
        ):
            page.click(f".tile >> nth={index}")
            command, _, file = (row.inner_text() for row in page.query_selector_all("#detail-again code"))
            words = shlex.split(command)
            assert words[words.index("--class") + 1] == name
            assert web.get(file).content == made[index], name
            page.keyboard.press("Escape")


def test_the_page_of_the_interface_needs_the_key(page, tmp_path) -> None:
    """Which the first page asks for and keeps."""
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}", key="sesame") as (web, _):
        page.goto(f"{web.base_url}/docs")
        shows(page, "#docs", "the API key is missing Enter it on the first page.")
        page.click("#docs a")
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("#key")).to_be_hidden()
        page.click("header a")
        sync_api.expect(page.locator(".opblock").first).to_be_visible()
