"""The table of equivalents is complete, and everything that it refers to exists."""

import inspect
import re
from pathlib import Path

import pytest
import typer

import mixpanel
from mixpanel import cdp
from mixpanel.cdp import htevents, semantic, webhooks
from mixpanel.cdp._segment.options import SegmentOptions
from mixpanel.cli.app import app
from tests.cdp.test_semantic import REFERENCE

TABLE = Path(cdp.__file__).with_name("README.md")
ROOT = Path(__file__).parents[2]

# What they have, by the section of the table; of the events, `REFERENCE` is the list.
CALLS = "identify track page screen group alias"
SETTINGS = (
    "write_key host on_error debug send sync_mode max_queue_size gzip timeout max_retries "
    "log_handler oauth_client_id oauth_client_key oauth_key_id oauth_auth_server oauth_scope"
)
FUNCTIONS = " ".join(f"{name}()" for name in [*CALLS.split(), "flush", "join", "shutdown"])
THEIR_WORDS = {
    "Endpoints": ("/v1/{}", f"{CALLS} batch"),
    "Options of a client": ("{}", f"{SETTINGS} proxies thread upload_size upload_interval"),
    "Hightouch's module": ("{}", f"{SETTINGS} {FUNCTIONS} default_client __version__"),
    "The simulator's flags": (
        "--{}",
        "writeKey type userId anonymousId context event properties name traits groupId",
    ),
    "The notebooks project: the client": (
        "{}",
        (
            "RateLimit RateLimit.reset_if_needed RateLimit.can_make_request "
            "RateLimit.record_request CustomerIOClient CustomerIOClient.get_auth_headers "
            "CustomerIOClient.make_request CustomerIOClient.identify CustomerIOClient.track "
            "CustomerIOClient.page CustomerIOClient.screen CustomerIOClient.alias "
            "CustomerIOClient.delete CustomerIOError "
            "AuthenticationError RateLimitError ValidationError NetworkError validate_email "
            "validate_user_id validate_event_name validate_batch_size validate_region"
        ),
    ),
    "The notebooks project: people, events, GDPR": (
        "{}",
        (
            "identify_user delete_user suppress_user unsuppress_user track_event track_page_view "
            "track_screen_view track_ecommerce_event track_email_event track_mobile_event "
            "track_video_event track_user_deleted track_user_suppressed track_user_unsuppressed "
            "track_device_deleted track_object_deleted track_relationship_deleted "
            "track_report_delivery_event"
        ),
    ),
    "The notebooks project: ecommerce, mobile, video": (
        "track_{}",
        (
            "products_searched product_list_viewed product_list_filtered product_clicked "
            "checkout_step_viewed checkout_step_completed payment_info_entered promotion_viewed "
            "promotion_clicked coupon_entered coupon_applied coupon_denied coupon_removed "
            "product_added_to_wishlist product_removed_from_wishlist "
            "wishlist_product_added_to_cart product_shared cart_shared product_reviewed "
            "application_installed application_opened application_backgrounded "
            "application_foregrounded application_updated application_uninstalled "
            "application_crashed push_notification_received push_notification_tapped "
            "video_playback_started video_playback_paused video_playback_interrupted "
            "video_playback_buffer_started video_playback_buffer_completed "
            "video_playback_seek_started video_playback_seek_completed video_playback_resumed "
            "video_playback_completed video_playback_exited video_content_started "
            "video_content_playing video_content_completed video_ad_started video_ad_playing "
            "video_ad_completed"
        ),
    ),
    "The notebooks project: devices, objects, pages, profiles, batches": (
        "{}",
        (
            "register_device update_device delete_device create_object update_object delete_object "
            "create_relationship delete_relationship track_page track_pageview track_screen "
            "track_screenview create_alias merge_profiles send_batch create_batch_operations "
            "split_oversized_batch"
        ),
    ),
    "The notebooks project: webhooks": (
        "{}",
        (
            "verify_signature parse_event get_event_type validate_webhook_headers "
            "route_webhook_event get_event_handler handle_event save_to_delta "
            "CustomerIOWebhookManager CustomerIOWebhookManager.create_webhook "
            "CustomerIOWebhookManager.list_webhooks CustomerIOWebhookManager.get_webhook "
            "CustomerIOWebhookManager.update_webhook CustomerIOWebhookManager.delete_webhook "
            "CustomerIOWebhookManager.test_webhook setup_databricks_webhook"
        ),
    ),
    "The notebooks project: the App API": (
        "{}",
        (
            "AppAPIAuth AppAPIAuth.get_headers AppAPIAuth.create_session "
            "AppAPIAuth.get_rate_limit_delay send_transactional trigger_broadcast send_push "
            "search_customers get_customer get_customer_activities get_customer_attributes "
            "get_customer_messages get_customer_segments create_customer update_customer "
            "delete_customer "
            "manage_customer_suppression"
        ),
    ),
    "Defined inside the notebooks": (
        "{}",
        (
            "process_customer_purchase onboard_b2b_customer track_product_interaction "
            "DeviceManager update_push_preferences rotate_device_token check_batch_size "
            "send_split_batches UserImporter migrate_historical_events BatchProcessor "
            "UserRegistrationFlow consolidate_cross_platform_user handle_email_change "
            "migrate_user_account"
        ),
    ),
}
THEIRS = {
    title: [form.format(word) for word in words.split()]
    for title, (form, words) in THEIR_WORDS.items()
} | {"Semantic events": list(REFERENCE)}
STATUS = re.compile(r"(same|here|not needed)($|[,:;])|not here: \w+")
ROW = re.compile(r"\| `([^`]+)` \| (.*) \| (.+) \|")
# The positions of the six calls, as both libraries for Python have them.
POSITIONS = {
    "identify": "user_id traits context timestamp anonymous_id integrations message_id",
    "track": "user_id event properties context timestamp anonymous_id integrations message_id",
    "alias": "previous_id user_id context timestamp integrations message_id",
    "group": "user_id group_id traits context timestamp anonymous_id integrations message_id",
    "page": "user_id category name properties context timestamp anonymous_id integrations "
    "message_id",
    "screen": "user_id category name properties context timestamp anonymous_id integrations "
    "message_id",
}


def sections():
    """Return the rows of the table by section."""
    found = {}
    for part in TABLE.read_text().split("\n### ")[1:]:
        title, _, text = part.partition("\n")
        found[title] = [match.groups() for match in map(ROW.fullmatch, text.splitlines()) if match]
    return found


ROWS = [(title, *row) for title, rows in sections().items() for row in rows]


def command(words):
    """Look up `mp cdp track --user-id`: every word is a command, or an option of it."""
    found = typer.main.get_command(app)
    for word in words:
        if word.startswith("-"):
            assert any(word in option.opts for option in found.params), word
        else:
            found = found.commands[word]


def look_up(name):
    """Look up a name of the table; raise if it does not exist."""
    first, *rest = name.split()
    if first == "mp":
        command(rest)
        return
    room, _, inner = name.partition(".")
    if room == "SegmentOptions":
        assert inner in SegmentOptions.__optional_keys__, name
        return
    rooms = {"semantic": semantic, "htevents": htevents, "webhooks": webhooks}
    found = rooms.get(room) or getattr(cdp, room, None) or getattr(mixpanel, room)
    for part in filter(None, inner.split(".")):
        fields = getattr(found, "__dataclass_fields__", {})
        found = fields[part] if part in fields else getattr(found, part)


@pytest.mark.parametrize("title", THEIRS)
def test_every_name_of_the_other_libraries_has_a_row(title):
    """Each name has exactly one row."""
    assert sorted(THEIRS[title]) == sorted(theirs for theirs, _, _ in sections()[title])


def test_the_table_has_exactly_the_checked_sections():
    """No section is unchecked, and there are 72 events."""
    assert set(THEIRS) == set(sections())
    assert len(THEIRS["Semantic events"]) == 72


@pytest.mark.slow
@pytest.mark.parametrize(("title", "theirs", "ours", "status"), ROWS)
def test_every_row_refers_to_something_that_exists(title, theirs, ours, status):
    """Names, commands with options, notebooks; or there is a reason."""
    assert STATUS.match(status), status
    if title == "Semantic events":
        assert ours == f"`semantic.{semantic.EVENTS[theirs].__name__}`"
    for name in re.findall(r"`([A-Za-z_][\w.]*|mp [^`]+)`", ours):
        if not re.fullmatch(
            r"url|title|referrer|search|delivered|opened|logging|mixpanel|kind=", name
        ):
            look_up(name)
    for target in re.findall(r"\]\(([^)]+)\)", ours):
        assert (TABLE.parent / target).resolve().is_relative_to(ROOT)
        assert (TABLE.parent / target).exists(), target
    assert ours or status.startswith("not here")


@pytest.mark.parametrize("call", POSITIONS)
def test_rows_marked_same_have_the_same_positional_parameters(call):
    """For methods and module functions; additional parameters come after them."""
    for function in (getattr(cdp.CustomerIO, call), getattr(cdp.Hightouch, call)):
        names = list(inspect.signature(function).parameters)
        assert POSITIONS[call].split() == names[1 : 1 + len(POSITIONS[call].split())]
    names = list(inspect.signature(getattr(htevents, call)).parameters)
    assert POSITIONS[call].split() == names[: len(POSITIONS[call].split())]
