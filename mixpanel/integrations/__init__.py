"""Integrations with web frameworks, task queues, serverless functions and notebooks.

Each module imports its own framework only: `asgi`, `fastapi`, `wsgi`, `flask`, `django`, `celery`,
`dramatiq`, `rq`, `serverless` and `ipython`. They set the identity and properties of the events of
a request or task as `mixpanel.context` does, and send what is buffered when a worker ends. None of
them reads a body or puts query strings or cookies into events.
"""
