"""From a trained model to a verified bundle that the server can load.

`write` exports (`export`), records the answers of the original (`feeds`), verifies (`verify`, `compare`, `causality`)
and renames; `promote` gives a bundle another place.
"""

from ancestral_exporter.bundle.report import VerifyError, VerifyReport
from ancestral_exporter.bundle.verify import verify_bundle, verify_model
from ancestral_exporter.bundle.write import check_home, write_bundle

__all__ = ["VerifyError", "VerifyReport", "check_home", "verify_bundle", "verify_model", "write_bundle"]
