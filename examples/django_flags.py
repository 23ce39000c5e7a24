"""Check feature flags in a Django view: sync code, one client for the process.

pip install django
MP_TOKEN=... python examples/django_flags.py runserver --noreload
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

from mixpanel import AsyncBufferedConsumer, LocalFlagsConfig, Mixpanel

# On the async buffered consumer a sync client never waits for a request. The poller starts with the
# first worker that asks, and again in each forked one.
mp = Mixpanel(
    os.environ.get("MP_TOKEN", "YOUR_TOKEN"),
    AsyncBufferedConsumer(),
    local_flags_config=LocalFlagsConfig(),
)


def checkout(request: HttpRequest) -> JsonResponse:
    """Show the new checkout to those who shall see it."""
    user = request.headers.get("X-User", "anonymous-visitor")
    new = mp.local_flags.is_enabled("new-checkout", {"distinct_id": user})
    mp.track(user, "Checkout Opened", {"new": new})
    return JsonResponse({"page": "new" if new else "old"})


urlpatterns = [path("checkout", checkout)]

if not settings.configured:
    settings.configure(
        DEBUG=False, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="only-an-example"
    )

if __name__ == "__main__":
    mp.local_flags.start_polling_for_definitions()
    execute_from_command_line(sys.argv)
