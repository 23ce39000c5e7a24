"""The ids by which servers de-duplicate messages."""

import copy
import os
import pickle
import threading
from uuid import RFC_4122, UUID

import pytest

from mixpanel._records.ids import new_hex, new_uuid

each_kind = pytest.mark.parametrize("new_id", [new_uuid, new_hex], ids=["uuid", "hex"])


@pytest.mark.slow
@each_kind
def test_no_id_comes_twice(new_id):
    """Whichever thread makes it."""
    made = []
    threads = [
        threading.Thread(target=lambda: made.extend([new_id() for _ in range(20_000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(made)) == 80_000
    assert {(UUID(each).version, UUID(each).variant) for each in made} == {(4, RFC_4122)}
    assert {len(each) for each in made} == {len(new_id())}


def test_a_uuid_is_written_as_usual_and_hex_without_dashes():
    """So both match what servers take."""
    assert str(UUID(new_id := new_uuid())) == new_id
    assert UUID(new_id := new_hex()).hex == new_id


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@each_kind
def test_a_forked_child_makes_other_ids(new_id):
    """It starts as a copy of its parent's generator."""
    new_id()  # so that parent and child are in the middle of the same row
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, " ".join([new_id() for _ in range(100)]).encode())
        os._exit(0)
    os.close(writer)
    ours = {new_id() for _ in range(100)}
    with os.fdopen(reader) as pipe:
        theirs = set(pipe.read().split())
    os.waitpid(pid, 0)
    assert len(ours) == len(theirs) == 100
    assert not {each[:18] for each in ours} & {each[:18] for each in theirs}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda new: pickle.loads(pickle.dumps(new))])
@pytest.mark.parametrize("new", [new_uuid, new_hex])
def test_a_copy_never_repeats_ids(new, copied):
    """It uses the generator of its process, and has no state of its own."""
    other = copied(new)
    ids = [generate() for _ in range(3) for generate in (new, other)]
    assert len(set(ids)) == len(ids)
