"""The page in a real browser: sample, change the class, make a sample again by its address, errors, keys alone."""

from __future__ import annotations

import base64
import io
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from served import Gate, eventually, many_classes, mel_bundle, served, tiny_bundles, two_step_counts

import latentc_runtime
from latentc.cli import run

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


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
    context.set_default_timeout(10_000)
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
    assert page.is_visible("#empty")
    page.fill("#f-per", "2")
    page.fill("#f-seed", "11")
    page.fill("#f-guidance", "2.5")
    page.click("#go")
    eight = expected(app, classes=[0, 0, 1, 1, 2, 2, 3, 3], seeds=11, guidance=2.5)
    assert pictures(page, 8) == eight
    assert page.inner_text("#status").startswith("8 samples in")
    captions = [tile.inner_text() for tile in page.query_selector_all(".caption")]
    assert captions == ["zero", "zero", "one", "one", "two", "two", "three", "three"]

    for number in (0, 1, 2, 7):  # 3 stays
        page.check(f"#class-{number}", force=True) if number == 7 else page.uncheck(f"#class-{number}", force=True)
    page.select_option("#f-steps", "2")
    page.keyboard.press("Control+Enter")
    four = expected(app, classes=[3, 3, 7, 7], seeds=11, guidance=2.5, steps=2)
    eventually(lambda: len(page.query_selector_all(".tile.done")) == 4)
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
    assert page.inner_text(".chips").split("\n") == ["thing 30", "thing 7", "thing 12"]
    page.click("#go")
    assert pictures(page, 3) == expected(app, "many", classes=[30, 7, 12], seeds=0)
    assert "classes=30,7,12" in page.url


def test_a_sample_is_made_again(server, page, tmp_path, monkeypatch) -> None:
    """By the address of the page, by that of the file, and by the command."""
    web, app = server
    page.goto(address(web, "model=host&classes=5,9&per=2&seed=40&guidance=3&steps=2"))
    wanted = pictures(page, 4)[2]
    page.click(".tile >> nth=2")
    assert page.inner_text("#detail-title") == "nine"
    command, link, file = (row.inner_text() for row in page.query_selector_all("#detail-again code"))
    assert web.get(file).content == wanted

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
    page.wait_for_selector("#error")
    assert "queue of `host` is full" in page.inner_text("#error") and "E0614" in page.inner_text("#error")
    gate.open.set()
    for thread in threads:
        thread.join()
    page.click("#retry")
    assert pictures(page, 1) == expected(app, classes=[2], seeds=3)
    assert page.is_hidden("#error")


def test_stopping_leaves_the_queue(server, page) -> None:
    web, app = server
    model = app.models["host"]
    gate = Gate(model.pipeline)
    gate.open.clear()
    page.goto(address(web, "model=host&classes=2&per=2&seed=3"))
    eventually(lambda: model.scheduler.running == 2)
    page.click("#stop")
    page.wait_for_selector("#empty")
    assert page.inner_text("#status") == "Stopped after 0 samples"
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
    assert page.is_visible("#detail") and page.inner_text("dd >> nth=0") == str(int(seed) + 1)
    page.keyboard.press("ArrowRight")
    assert page.inner_text("dd >> nth=0") == str(int(seed) + 2)
    page.keyboard.press("Escape")
    assert page.is_hidden("#detail")
    focused = page.query_selector(".tile:focus")
    assert focused is not None and focused.query_selector("img").get_attribute("alt") == f"zero, seed {int(seed) + 2}"


def test_conditions_are_uploaded_or_typed(server, page, tmp_path) -> None:
    web, app = server
    mel = np.arange(4, dtype=np.float32).reshape(1, 2, 2) / 4
    np.save(tmp_path / "some.npy", mel)
    wanted = expected(app, "mel", conditions={"mel": mel}, seeds=[6])
    page.goto(address(web, "model=mel"))
    page.fill("#f-per", "1")
    page.fill("#f-seed", "6")
    page.click("#go")
    page.wait_for_selector("#error")
    assert "`mel` is missing" in page.inner_text("#error")
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
        eventually(lambda: page.inner_text("#ask-why") == "That key is wrong.")
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
