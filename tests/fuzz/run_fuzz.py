"""`make fuzz`: malformed requests over all RPCs, and corrupted bundles. Exit code 1 if the server did any of them harm.

A case depends on its seed and number alone: `--only requests --seed 1 --first 1234 --requests 1` runs one again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import fuzz_bundles
import fuzz_requests
from running import heed_sigterm


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--bundles", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", choices=("requests", "bundles"))
    flags = parser.parse_args()
    faults: list[str] = []
    began = time.monotonic()
    if flags.only != "bundles":
        with tempfile.TemporaryDirectory() as folder:
            requests = fuzz_requests.fuzz(Path(folder), flags.requests, flags.seed, flags.first)
        print(f"{requests.cases} requests in {time.monotonic() - began:.0f} s over {len(requests.rpcs)} RPCs:")
        print("  " + ", ".join(f"{path} {count}" for path, count in sorted(requests.rpcs.items())))
        print("  " + ", ".join(f"{code} {count}" for code, count in requests.codes.most_common()))
        faults += requests.faults
    began = time.monotonic()
    if flags.only != "requests":
        bundles = fuzz_bundles.fuzz(flags.bundles, flags.seed, flags.first)
        print(
            f"{bundles.cases} corrupted bundles in {time.monotonic() - began:.0f} s, {bundles.served} served rightly:"
        )
        print("\n".join(f"  {count:5d} {reason!r}" for reason, count in bundles.reasons.most_common(12)))
        faults += bundles.faults
    print(f"{len(faults)} faults")
    print("\n".join(faults[:50]))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
