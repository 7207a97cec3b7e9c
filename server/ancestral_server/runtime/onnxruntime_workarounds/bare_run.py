"""A run that passes the Python class around a session by.

What:   calls the C++ session within `InferenceSession`, an attribute that is not public.
Why:    the class looks at every input's name, and at all outputs' names, before each run; the programs have done so
        once, at load. A lone image takes 30 µs less (da0c601).
Since:  1.31.
Costs:  a private attribute that a later onnxruntime may call otherwise.
Goes:   tests/server/runtime/test_onnxruntime_workarounds.py::test_a_session_still_has_a_bare_one_within_that_runs_alike
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray


def run(session: Any, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]], options: Any) -> list[NDArray[Any]]:
    """What `session.run(outputs, inputs, options)` gives, whose names are known to be right."""
    return list(session._sess.run(outputs, inputs, options))
