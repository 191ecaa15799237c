"""The page and what it asks for, over HTTP: images in, a comparison, its mask and objects at any threshold out."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from anyio import CapacityLimiter, create_task_group, sleep, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data_pipelines.layouts import DataError
from segdiff.inference.predictor import Detector
from segdiff.model_files import AUGMENTATIONS, PostProcessing
from segdiff.serving.comparisons import Comparison, compare, thresholds_around
from segdiff.serving.uploads import (
    GoneError,
    Limits,
    Shelf,
    TooLargeError,
    Upload,
    open_upload,
    receive,
    shown_name,
)
from segdiff.visualization import layers
from segdiff.visualization.pages import TEMPLATES, page_template
from segdiff.visualization.palettes import CLASS_COLORS

_ASSETS = ("report.css", "viewer.js", "serve.css", "serve.js")
_TYPES = {".css": "text/css", ".js": "text/javascript"}

KEPT_IMAGES, KEPT_COMPARISONS, IDLE_SECONDS = 24, 12, 30 * 60
"""So many are kept at once, and so long after they were last asked for."""

WAITING = 16
"""So many visitors, at most, wait for their turn to be predicted."""

_HEADERS = {
    # nothing but what this server sends
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class PageModel:
    """The model of a page."""

    detector: Detector
    name: str
    threshold: float | None = None
    """To begin with; None: the model's own."""
    resolution: float | None = None
    """Metres per pixel of images that do not say theirs."""


class BusyError(Exception):
    """Too many are waiting; the message is one line."""


def create_app(
    model: PageModel, *, limits: Limits, hosts: list[str], folder: Path, complain: Callable[[Exception], None]
) -> Starlette:
    """The page of a model as an ASGI application.

    ``hosts`` are the names that requests may call it by, ``["*"]`` any; ``folder`` is for what visitors send, and is
    the caller's to remove. ``complain`` is told what nobody has foreseen; the visitor gets a line, the page goes on.
    """
    page = _Page(model, limits, folder)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with create_task_group() as tasks:
            tasks.start_soon(page.tidy)
            yield
            tasks.cancel_scope.cancel()

    async def unforeseen(request: Request, error: Exception) -> Response:
        complain(error)
        return _refusal(500, "this went wrong here, see the window in which segdiff serve runs")

    return Starlette(
        routes=[
            Route("/", page.index),
            Route("/assets/{name}", page.asset),
            Route("/images", page.receive_image, methods=["POST"]),
            Route("/images/{token}", page.drop_image, methods=["DELETE"]),
            Route("/images/{token}/picture.jpg", page.picture),
            Route("/comparisons", page.compare, methods=["POST"]),
            Route("/comparisons/{token}", page.drop_comparison, methods=["DELETE"]),
            Route("/comparisons/{token}/levels", page.levels),
            Route("/comparisons/{token}/decision", page.decision),
            Route("/comparisons/{token}/mask", page.mask),
            Route("/comparisons/{token}/mask-file", page.mask_file),
            Route("/comparisons/{token}/objects-file", page.objects_file),
        ],
        lifespan=lifespan,
        middleware=[
            Middleware(_Guard),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ],
        exception_handlers={
            HTTPException: lambda request, error: _refusal(error.status_code, error.detail),
            DataError: lambda request, error: _refusal(422, str(error)),
            TooLargeError: lambda request, error: _refusal(413, str(error)),
            GoneError: lambda request, error: _refusal(404, str(error)),
            BusyError: lambda request, error: _refusal(503, str(error)),
            MemoryError: lambda request, error: _refusal(507, "out of memory: take smaller images"),
            ClientDisconnect: lambda request, error: _refusal(400, "the visitor has left"),
            Exception: unforeseen,
        },
    )


def _refusal(status: int, line: str) -> Response:
    return JSONResponse({"error": " ".join(line.split())}, status)


class _Guard:
    """Sets the headers of every answer, and refuses what another site's page makes a visitor's browser send."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != request.headers.get("host"):
            await _refusal(403, "requests of other sites are refused")(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


class _Page:
    """What is kept between requests."""

    def __init__(self, model: PageModel, limits: Limits, folder: Path):
        self._model, self._limits, self._folder = model, limits, folder
        self._images = Shelf(KEPT_IMAGES, IDLE_SECONDS)
        self._comparisons = Shelf(KEPT_COMPARISONS, IDLE_SECONDS)
        self._predicting, self._computing = CapacityLimiter(1), CapacityLimiter(2)
        self._html = page_template("serve.html").render(self._content())

    async def tidy(self) -> None:
        """Removes what nobody asks for any more, for as long as the page is served."""
        while True:
            await sleep(60)
            self._images.tidy()
            self._comparisons.tidy()

    def _content(self) -> dict[str, Any]:
        settings = self._model.detector.settings
        classes = settings.classes
        steps = self._model.detector.post_processing
        return {
            "model": self._model.name,
            "classes": classes[1:],
            "limits": self._limits,
            "minutes": IDLE_SECONDS // 60,
            "augmented": AUGMENTATIONS.get(self._model.detector.test_time_augmentation, ""),
            "steps": "" if steps == PostProcessing() else _in_words(steps),
            "page": {
                "megabytes": self._limits.megabytes,
                "classes": list(classes),
                "colors": [list(CLASS_COLORS[index % len(CLASS_COLORS)]) for index in range(len(classes) - 1)],
                "heat": layers.HEAT_PALETTE.tolist(),
                "gradient": layers.heat_gradient(),
                "threshold": self._threshold,
                "thresholds": thresholds_around(self._threshold),
            },
        }

    @property
    def _threshold(self) -> float:
        own = self._model.detector.settings.threshold
        return own if self._model.threshold is None else self._model.threshold

    async def index(self, request: Request) -> Response:
        return HTMLResponse(self._html)

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise HTTPException(404, "there is no such page")
        path = TEMPLATES / name
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix])

    async def receive_image(self, request: Request) -> Response:
        role = request.query_params.get("role")
        if role not in ("before", "after"):
            raise HTTPException(400, f"role is {role!r}: it must be before or after")
        detector = self._model.detector
        bands = detector.bands if role == "before" else detector.bands_after
        name = shown_name(request.query_params.get("name", ""))
        with _new_folder(self._folder) as folder:
            path = await receive(request.stream(), folder / role, self._limits, name)
            upload = await to_thread.run_sync(open_upload, path, name, bands, self._limits, limiter=self._computing)
        token = self._images.put(upload)
        return JSONResponse({"image": token, "name": name, "width": upload.width, "height": upload.height}, 201)

    async def drop_image(self, request: Request) -> Response:
        self._images.drop(request.path_params["token"])
        return Response(status_code=204)

    async def picture(self, request: Request) -> Response:
        upload: Upload = self._images.get(request.path_params["token"])
        return Response(upload.picture, media_type="image/jpeg")

    async def compare(self, request: Request) -> Response:
        before, after = (self._images.get(request.query_params.get(role, "")) for role in ("before", "after"))
        waiting = self._predicting.statistics().tasks_waiting
        if waiting >= WAITING:
            raise BusyError(f"{waiting} visitors are waiting already; try again in a minute")
        model = self._model

        def work() -> Comparison:
            with _new_folder(self._folder) as folder:
                return compare(
                    model.detector, before, after, folder, self._limits,
                    threshold=model.threshold, resolution=model.resolution,
                )  # fmt: skip

        comparison = await to_thread.run_sync(work, limiter=self._predicting)
        return JSONResponse({"comparison": self._comparisons.put(comparison), **comparison.describe()}, 201)

    async def drop_comparison(self, request: Request) -> Response:
        self._comparisons.drop(request.path_params["token"])
        return Response(status_code=204)

    async def levels(self, request: Request) -> Response:
        comparison: Comparison = self._comparisons.get(request.path_params["token"])
        return _packed(comparison.levels)

    async def decision(self, request: Request) -> Response:
        return JSONResponse(await self._decided(request, Comparison.describe_decision))

    async def mask(self, request: Request) -> Response:
        return _packed(await self._decided(request, Comparison.packed_mask))

    async def mask_file(self, request: Request) -> Response:
        name, content = await self._decided(request, Comparison.mask_file)
        return _download(name, content, "image/tiff" if name.endswith(".tif") else "image/png")

    async def objects_file(self, request: Request) -> Response:
        name, content = await self._decided(request, Comparison.objects_file)
        return _download(name, content, "application/geo+json")

    async def _decided(self, request: Request, what: Callable[[Comparison, float], Any]) -> Any:
        comparison: Comparison = self._comparisons.get(request.path_params["token"])
        text = request.query_params.get("threshold", "")
        try:
            threshold = float(text)
        except ValueError:
            threshold = -1.0
        if not 0 < threshold < 1:
            raise HTTPException(400, f"threshold is {text!r}, it must lie above 0 and below 1")
        return await to_thread.run_sync(what, comparison, threshold, limiter=self._computing)


def _in_words(steps: PostProcessing) -> str:
    named = {"closing": steps.closing, "hole filling": steps.fill_holes, "class by vote": steps.vote}
    named["minimum area"] = steps.minimum_area > 1
    return ", ".join(name for name, used in named.items() if used)


def _packed(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream", headers={"content-encoding": "gzip"})


def _download(name: str, content: bytes, kind: str) -> Response:
    plain = "".join(c if c.isascii() and c not in '"\\' else "_" for c in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"
    return Response(content, media_type=kind, headers={"content-disposition": disposition})


@contextmanager
def _new_folder(root: Path) -> Iterator[Path]:
    """A new folder that stays, unless an error comes up."""
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
