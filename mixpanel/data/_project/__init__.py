"""Project data: a table of Mixpanel's app API, and the code that calls what it describes."""
