"""The metrics for a Prometheus collector, on an address of their own: Matrix traffic may come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_application(render: Callable[[], bytes]) -> web.Application:
    """Make an application with the one path ``/metrics``.

    Args:
        render: gives the present values as Prometheus text.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=render(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application(client_max_size=1024)
    application.router.add_get("/metrics", metrics)
    return application
