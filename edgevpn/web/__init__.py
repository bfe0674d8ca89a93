"""The HTTP API and the dashboard: an ASGI application over a `Source`, which the api actor is."""
