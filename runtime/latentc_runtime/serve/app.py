"""The web application: routes, errors as JSON, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from latentc_runtime.errors import BundleError
from latentc_runtime.serve.guards import Guard, error_body
from latentc_runtime.serve.metrics import Metrics
from latentc_runtime.serve.models import Model
from latentc_runtime.serve.openai import IMAGES, images_handler, images_operation
from latentc_runtime.serve.openapi import operation
from latentc_runtime.serve.options import HttpError, Options
from latentc_runtime.serve.sampling import handler

PAGE = Path(__file__).parent / "page"
SWAGGER = Path(fastapi_offline.__file__).parent / "static"  # Swagger UI


class App(FastAPI):
    """The application of a server; `draining` is set once it stops."""

    def __init__(self, models: Mapping[str, Model], options: Options, metrics: Metrics) -> None:
        self.models, self.configuration, self.metrics = models, options, metrics
        self.draining = False
        super().__init__(
            title="latentc",
            description="Samples from compiled generative models. A seed gives the same sample in any batch.",
            version="1",
            # Their pages load scripts from another host; `/docs` is our own.
            docs_url=None,
            redoc_url=None,
            lifespan=_lifespan,
            exception_handlers={HttpError: _refusal, HTTPException: _no_route},
        )
        self.add_middleware(Guard, options=options)
        _add_routes(self)

    @property
    def ready(self) -> bool:
        """True if every model serves requests."""
        return not self.draining and all(model.ready for model in self.models.values())


def _add_routes(app: App) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html")

    app.mount("/static/swagger", StaticFiles(directory=SWAGGER))
    app.mount("/static", StaticFiles(directory=PAGE))

    @app.get("/healthz", summary="Whether the server runs", tags=["state"])
    async def healthy() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether every model serves requests; 503 if not", tags=["state"])
    async def ready() -> Response:
        states = {name: model.scheduler.state for name, model in app.models.items()}
        fields = {"ready": app.ready, "draining": app.draining, "models": states}
        return JSONResponse(fields, 200 if app.ready else 503)

    @app.get("/metrics", summary="Metrics for Prometheus", tags=["state"])
    async def metrics() -> Response:
        return Response(app.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", summary="What each model takes", tags=["models"])
    async def models() -> dict[str, Any]:
        served = app.models.values()
        described = [model.description(app.configuration) for model in served]
        return {"object": "list", "data": [model.entry() for model in served], "models": described}

    for model in app.models.values():
        _add_model(app, model)
    app.add_api_route(
        IMAGES,
        images_handler(app.models, app.configuration, app.metrics),
        methods=["POST"],
        response_model=None,
        operation_id="images_generations",
        summary="Pictures, as OpenAI's interface makes them",
        tags=["models"],
        openapi_extra=images_operation(app.models, app.configuration),
    )


def _add_model(app: App, model: Model) -> None:
    path, name = f"/v1/models/{model.name}", model.name.replace("-", "_").replace(".", "_")

    async def description() -> dict[str, Any]:
        return model.description(app.configuration)

    route: dict[str, Any] = {"tags": [model.name]}
    app.add_api_route(path, description, operation_id=f"describe_{name}", summary="What the model takes", **route)
    sample = handler(model, app.configuration, app.metrics)
    for method, summary in (("POST", "Samples"), ("GET", "Samples, by an address that can be shared")):
        app.add_api_route(
            f"{path}/sample",
            sample,
            methods=[method],
            response_model=None,
            operation_id=f"{method.lower()}_{name}",
            summary=summary,
            openapi_extra=operation(model, app.configuration, method),
            **route,
        )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    assert isinstance(app, App)
    for model in app.models.values():
        model.scheduler.start()
    yield
    app.draining = True
    for model in app.models.values():
        model.scheduler.close()
    for model in app.models.values():
        model.scheduler.join(app.configuration.drain)


async def _refusal(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    body = error_body(error, http.url.path, http.scope["state"]["id"])
    return Response(body, error.status, error.headers, "application/json")


async def _no_route(http: HttpRequest, error: Exception) -> Response:
    """Errors of the framework itself: an unknown address or method, a form that cannot be parsed."""
    assert isinstance(error, HTTPException)
    path, app = http.url.path, http.app
    if error.status_code == 404:
        names = ", ".join(app.models)
        known = f"models: {names}; use /v1/models/NAME/sample"
        fault = BundleError("E0617", f"nothing is at {path[:120]}", f"{known}; /openapi.json lists all addresses")
    elif error.status_code == 405:
        fault = BundleError("E0617", f"{path[:120]} takes no {http.method}", "see /openapi.json")
    else:
        fault = BundleError("E0618", f"the request cannot be read: {error.detail}", "see /openapi.json")
    return await _refusal(http, HttpError(error.status_code, fault))
