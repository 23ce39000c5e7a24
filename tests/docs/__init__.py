"""The documentation: its pages, its site, and the tests of both."""
