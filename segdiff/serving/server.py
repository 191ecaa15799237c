"""Runs the page: a port that is ours before anything is loaded, a folder that goes with it."""

import ipaddress
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import uvicorn

from segdiff.serving.application import PageModel, create_app
from segdiff.serving.uploads import Limits


def is_loopback(host: str) -> bool:
    """Whether a server bound to that address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_port(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises OSError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def address_of(listening: socket.socket, host: str) -> str:
    """Where a browser on this machine finds it."""
    port = listening.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def run_page(
    model: PageModel, listening: socket.socket, host: str, limits: Limits, complain: Callable[[Exception], None]
) -> None:
    """Serves until the process is interrupted or terminated, then removes what visitors sent.

    A page on loopback answers to loopback's names alone: a site whose name was made to point here would otherwise be,
    for a browser, the same site as this page, and could read it.
    """
    hosts = ["127.0.0.1", "::1", "[::1]", "localhost", host] if is_loopback(host) else ["*"]
    with tempfile.TemporaryDirectory(prefix="segdiff-serve-", ignore_cleanup_errors=True) as folder:
        app = create_app(model, limits=limits, hosts=hosts, folder=Path(folder), complain=complain)
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, server_header=False, lifespan="on", ws="none", http="h11",
            loop="asyncio", timeout_graceful_shutdown=3, proxy_headers=False,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listening])
