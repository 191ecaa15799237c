"""`segdiff serve`: the page that compares two images in a browser."""

import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from segdiff.cli.errors import complain
from segdiff.cli.options import Debug, Json, Precision, Quiet, Resolution, Runtime, Threshold
from segdiff.cli.screen import Screen
from segdiff.cli.silence import silenced


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run folder, .keras file or shipped name.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all, whoever reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    threshold: Threshold = None,
    resolution: Resolution = None,
    runtime: Runtime = "auto",
    precision: Precision = "auto",
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest file, in 10^6 bytes.")] = 100,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest image, in 10^6 pixels.")] = 25,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve a page, on this machine alone unless told otherwise: drop two images, see their change at any threshold."""
    from segdiff.config import ConfigError

    try:
        from segdiff.inference.predictor import load
        from segdiff.serving.application import PageModel
        from segdiff.serving.server import address_of, is_loopback, open_port, run_page
        from segdiff.serving.uploads import Limits
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("anyio", "starlette", "uvicorn"):
            raise
        raise ConfigError(f"serve: the package {package} is not installed: pip install 'segdiff[serve]'") from error
    screen = Screen(as_json, quiet)
    limits = Limits(max_megabytes, max_megapixels)
    try:
        listening = open_port(host, port)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]  # repeats the address
        raise ConfigError(
            f"{host}:{port}: {reason}; name another with --host or --port (0: any that is free)"
        ) from error

    def complain_of_fault(error: Exception) -> None:
        if debug:
            traceback.print_exception(error)
        line = " ".join(str(error).split())
        complain(f"{type(error).__name__}: {line} (this is a fault of segdiff; --debug shows where)")

    with listening:
        with silenced(debug):
            detector = load(model, runtime=runtime, precision=precision)
        try:
            detector.check_options(threshold=threshold, tile=None, overlap=None, resolution=resolution)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        url = address_of(listening, host)
        screen.result(
            {"url": url, "model": detector.path, **asdict(limits)},
            lambda console: console.print(f"{url}  (Ctrl-C ends it)", markup=False),
        )
        sys.stdout.flush()
        if not is_loopback(host):
            complain("whoever reaches this address can use the page: put a proxy with a password before it")
        page = PageModel(detector, Path(model).name.removesuffix(".keras"), threshold, resolution)
        run_page(page, listening, host, limits, complain_of_fault)
