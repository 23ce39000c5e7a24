"""Objects that are copied by their settings: which attributes a copy gets, and what that costs."""

import copy
import gc

import pytest

from mixpanel import (
    AsyncBufferedConsumer,
    AsyncMixpanel,
    BufferedConsumer,
    Consumer,
    Mixpanel,
    ServiceAccountCredentials,
)
from mixpanel._runtime.rebuilding import Rebuilt, _own_attributes
from mixpanel.cdp import (
    AsyncCustomerIO,
    AsyncFanOut,
    AsyncHightouch,
    CustomerIO,
    FanOut,
    Hightouch,
    Sink,
    htevents,
)
from mixpanel.data import AsyncWorkspace

ACCOUNT = ServiceAccountCredentials("user", "secret", "1")
MAKERS = {
    "AsyncMixpanel": lambda: AsyncMixpanel("TOKEN"),
    "Mixpanel": lambda: Mixpanel("TOKEN"),
    "Consumer": Consumer,
    "BufferedConsumer": BufferedConsumer,
    "AsyncBufferedConsumer": AsyncBufferedConsumer,
    "AsyncCustomerIO": lambda: AsyncCustomerIO("key"),
    "CustomerIO": lambda: CustomerIO("key"),
    "AsyncHightouch": lambda: AsyncHightouch("key", base_url="http://127.0.0.1:9"),
    "Hightouch": lambda: Hightouch("key", base_url="http://127.0.0.1:9"),
    "htevents": lambda: htevents.Client("key", host="http://127.0.0.1:9"),
    "FanOut": lambda: FanOut(product=Sink(Mixpanel("TOKEN")), crm=Sink(CustomerIO("key"))),
    "AsyncFanOut": lambda: AsyncFanOut(crm=Sink(AsyncCustomerIO("key"))),
    "the core of a workspace": lambda: AsyncWorkspace(credentials=ACCOUNT)._core,
}


@pytest.fixture(params=MAKERS)
def made(request):
    return MAKERS[request.param]()


def test_every_attribute_of_a_new_object_is_made_anew_in_a_copy(made):
    assert isinstance(made, Rebuilt)
    missing = set(vars(made)) - _own_attributes(type(made))
    assert not missing, "assigned in a way that the search of the code does not see"


@pytest.mark.slow
def test_attributes_that_a_program_adds_are_copied(made):
    made.team = ["growth"]
    made._private = 1
    copied = copy.copy(made)
    assert (copied.team, copied._private) == (["growth"], 1)


def test_attributes_of_a_subclass_are_copied():
    class Named(Mixpanel):
        def __init__(self, token, name):
            super().__init__(token)
            self.name = name

    assert copy.deepcopy(Named("TOKEN", "checkout")).name == "checkout"


def test_attributes_stay_where_cpython_finds_them_fastest():
    """CPython calls an object's methods more slowly once its attributes are in a dict."""

    class Client(Rebuilt):
        def __init__(self):
            self.name = "a"
            self._keep_settings(name="a")

    assert not any(isinstance(one, dict) for one in gc.get_referents(Client()))
