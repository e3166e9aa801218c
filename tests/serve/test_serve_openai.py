"""OpenAI's interface: pictures of a class by its name, errors in its form; and the page of the API."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from served import NAMES, mel_bundle, served, tiny_bundles, two_step_counts

import latentc_runtime
from latentc.files.shipped import codes

IMAGES = "/v1/images/generations"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    host, tokens = two_step_counts(folder / "host"), tiny_bundles.token_bundle(folder / "tokens")
    bundles = [f"host={host}", f"tokens={tokens}", f"mel={mel_bundle(folder / 'mel')}"]
    with served(*bundles, max_samples=4, max_body=10_000) as (web, app):
        yield web, app


def pngs(answer) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json()["created"], int)
    return [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]


def expected(app, classes, **arguments) -> list[bytes]:
    pipe = app.models["host"].pipeline
    return [latentc_runtime.png(picture) for picture in pipe.images(pipe.sample(classes, **arguments))]


def test_a_prompt_is_a_class(server) -> None:
    web, app = server
    asked = {"model": "host", "n": 2, "seed": 5}
    for prompt in ("seven", " SEVEN ", "7"):
        assert pngs(web.post(IMAGES, json={**asked, "prompt": prompt})) == expected(app, [7, 7], seeds=5)
    for prompt in ("four, quattuor", "quattuor"):
        assert pngs(web.post(IMAGES, json={**asked, "prompt": prompt})) == expected(app, [4, 4], seeds=5)
    more = {"size": "2x2", "response_format": "b64_json", "user": "u", "quality": "standard", "steps": 2, "guidance": 3}
    given = web.post(IMAGES, json={**asked, **more, "prompt": NAMES[1]})
    assert pngs(given) == expected(app, [1, 1], seeds=5, steps=2, guidance=3.0)


def test_models_are_listed_in_both_forms(server) -> None:
    """OpenAI's list, and the descriptions that latentc's own client reads."""
    web, app = server
    found = web.get("/v1/models").json()
    assert found["object"] == "list"
    assert [(one["id"], one["object"], one["owned_by"]) for one in found["data"]] == [
        (name, "model", "latentc") for name in ("host", "tokens", "mel")
    ]
    written = [int((Path(app.models[one["id"]].place) / "manifest.json").stat().st_mtime) for one in found["data"]]
    assert [one["created"] for one in found["data"]] == written
    assert [(one["name"], one["programs"][0]["name"]) for one in found["models"]] == [
        (name, app.models[name].manifest.programs[0].name) for name in app.models
    ]
    assert web.get("/v1/models/host").json().items() >= found["data"][0].items()


def test_without_a_seed_pictures_differ_and_say_theirs(server) -> None:
    web, app = server
    answers = [web.post(IMAGES, json={"model": "host", "prompt": "one"}) for _ in range(2)]
    seeds = [answer.json()["data"][0]["seed"] for answer in answers]
    assert seeds[0] != seeds[1]
    assert [pngs(answer) for answer in answers] == [expected(app, [1], seeds=seed) for seed in seeds]


REFUSED = {
    "prompt": ({"prompt": "tree"}, 400, "E0608", "prompt"),
    "number": ({"prompt": "10"}, 400, "E0608", "prompt"),
    "several": ({"prompt": "one,two"}, 400, "E0608", "prompt"),
    "no prompt": ({"n": 1}, 400, "E0618", "prompt"),
    "prompt of another type": ({"prompt": 3}, 400, "E0618", "prompt"),
    "model": ({"model": "dall-e-3", "prompt": "one"}, 404, "E0617", "model"),
    "no model": ({"model": None, "prompt": "one"}, 400, "E0617", "model"),
    "size": ({"prompt": "one", "size": "1024x1024"}, 400, "E0608", "size"),
    "address": ({"prompt": "one", "response_format": "url"}, 400, "E0618", "response_format"),
    "stream": ({"prompt": "one", "stream": True}, 400, "E0618", "stream"),
    "none": ({"prompt": "one", "n": 0}, 400, "E0618", "n"),
    "many": ({"prompt": "one", "n": 5}, 400, "E0608", None),
    "huge": ({"prompt": "one", "n": 10**30}, 400, "E0608", None),
    "seed": ({"prompt": "one", "seed": -1}, 400, "E0608", None),
    "steps": ({"prompt": "one", "steps": 7}, 400, "E0609", "steps"),
    "unknown": ({"prompt": "one", "style": "vivid"}, 400, "E0618", None),
    "array": ({"model": "mel", "prompt": "one"}, 400, "E0608", "prompt"),
    "missing": ({"model": "mel", "prompt": ""}, 400, "E0608", None),
    "body": ({"prompt": "x" * 20_000}, 413, "E0615", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_in_their_form(server, case: str) -> None:
    web, _ = server
    asked, status, code, field = REFUSED[case]
    answer = web.post(IMAGES, json={"model": "host", **asked})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, field), error
    assert error["message"] and error["type"] == "invalid_request_error" and code in codes()


def test_other_refusals_are_in_their_form(tmp_path) -> None:
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}", key="sesame") as (web, _):
        answer = web.post(IMAGES, json={"prompt": "1"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        key = {"authorization": "Bearer sesame"}
        assert len(pngs(web.post(IMAGES, json={"prompt": "1"}, headers=key))) == 1  # of the only model
        assert 'latentc_requests_total{model="m",status="200"} 1.0' in web.get("/metrics", headers=key).text
        error = web.post(IMAGES, json={"prompt": "cat"}, headers=key).json()["error"]
        assert error["message"] == "`cat` is no class of the model; give a number from 0 to 9"
        for method, path, status in (("GET", IMAGES, 405), ("POST", "/v1/images/edits", 404)):
            answer = web.request(method, path, headers=key)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, "E0617")
        for body in (b"", b"[]", b"{", b"null", b'{"prompt": NaN}', b"[" * 900, b"\xff"):
            answer = web.post(IMAGES, content=body, headers=key)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E0618")


def test_the_document_names_the_route_and_the_page_shows_it(server) -> None:
    web, _ = server
    found = web.get("/openapi.json").json()["paths"][IMAGES]["post"]
    assert found["requestBody"]["content"]["application/json"]["schema"]["required"] == ["prompt"]
    page = web.get("/docs")
    assert page.status_code == 200 and "http" not in page.text
    for place in ("swagger/swagger-ui-bundle.js", "swagger/swagger-ui.css", "docs.js"):
        assert web.get(f"/static/{place}").status_code == 200
