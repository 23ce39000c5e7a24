"""A page of Streamlit, whose script runs in a thread; `python streamlit_app.py` opens it twice."""

import streamlit as st
from clients import track

from mixpanel.data import Credentials, Workspace

ROBOT = Credentials(username="robot", secret="secret", project_id="1")


@st.cache_resource
def workspace():
    """Return what all sessions share."""
    return Workspace(credentials=ROBOT, path="workspace.db")


def page():
    """Track ten events, and show what was tracked before."""
    first = st.session_state.get("n", 0)
    st.session_state["n"] = first + 10
    for n in range(first, first + 10):
        track(n)
    st.write(workspace().list_events())
    st.button("Again")


if st.runtime.exists():
    page()
elif __name__ == "__main__":
    from streamlit.testing.v1 import AppTest

    test = AppTest.from_file(__file__, default_timeout=30).run()
    assert not test.exception, test.exception
    test.button[0].click().run()
    assert not test.exception, test.exception
