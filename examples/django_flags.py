"""Check feature flags in a Django view: sync code, one client for the process.

    pip install django
    MP_TOKEN=... python examples/django_flags.py runserver --noreload

Behind a WSGI server: `gunicorn --chdir examples django_flags`.

To try it without an account, run `mp emulator --flags examples/data/flags.json` and set
MP_BASE_URL=http://127.0.0.1:8650; then `curl -H 'X-User: u-17' http://127.0.0.1:8000/checkout`.
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from mixpanel import AsyncBufferedConsumer, LocalFlagsConfig, Mixpanel

# With the async buffered consumer, calls of the sync client never wait for a request.
mp = Mixpanel(
    os.environ.get("MP_TOKEN", "YOUR_TOKEN"),
    AsyncBufferedConsumer(),
    local_flags_config=LocalFlagsConfig(),
)
# At import, because a WSGI server only imports this module; it blocks until the first response.
# Workers that are forked afterwards resume polling at their first check of a flag.
mp.local_flags.start_polling_for_definitions()


def checkout(request: HttpRequest) -> JsonResponse:
    """Show the new checkout to the users with the flag."""
    user = request.headers.get("X-User", "anonymous-visitor")
    new = mp.local_flags.is_enabled("new-checkout", {"distinct_id": user})
    mp.track(user, "Checkout Opened", {"new": new})
    return JsonResponse({"page": "new" if new else "old"})


urlpatterns = [path("checkout", checkout)]

if not settings.configured:
    settings.configure(
        DEBUG=False, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="only-an-example"
    )

application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
