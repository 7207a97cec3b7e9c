"""What gRPC does not do, does wrongly or does dearly, and what this server does instead: one module each.

A module's text has a line for each question, by which `tests/architecture/test_workarounds.py` holds it:

    What:   what this server does instead.
    Why:    what gRPC does, with the number of its issue where there is one.
    Since:  the version of gRPC that it was found in.
    Costs:  what it costs.
    Goes:   the test that fails, or is to be looked at, when it may go.
"""
