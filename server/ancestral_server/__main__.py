"""`python -m ancestral_server` is the command `ancestral-server`."""

from __future__ import annotations

from ancestral.commands import server as main

if __name__ == "__main__":
    main()
