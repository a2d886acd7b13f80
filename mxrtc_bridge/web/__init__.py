"""HTTP servers: for the homeserver, for health checks, for metrics. The only home of aiohttp's server."""
