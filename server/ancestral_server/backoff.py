"""How long to leave alone what has failed, before it is tried again: a lane, or a whole server process."""

from __future__ import annotations

# What has run for a minute since its last failure counts as sound: its next failure is a first one. A fault that comes
# back within a minute is most likely the same one. Nobody measured it.
SOUND_SECONDS = 60.0
# The first pause is short enough for a caller's own retry to succeed (clients wait 0.1 to 2 s); the longest keeps a
# thing that stays broken from filling the log, and has it back half a minute after it is mended.
FIRST_SECONDS = 0.1
LONGEST_SECONDS = 30.0


def restart_delay(failures: int) -> float:
    """Seconds until the next try after so many failures in succession: 0.1, 0.2, 0.4 and so on, 30 at most."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 10))
