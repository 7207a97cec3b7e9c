"""Which models there are, now: versions appear, take over, drain and go without a call being lost.

folder    what lies on disk: versions, and stamps that tell when one has changed
loader    a folder to a version: read, verified, warm; on a thread
version   one version: its state, its lanes, who uses it
catalog   all versions: what answers a call, and every change of it
watch     keeps the catalog as the folder is
"""

from ancestral_server.catalog.catalog import Catalog
from ancestral_server.catalog.loader import Loader
from ancestral_server.catalog.version import ModelVersion, State
from ancestral_server.catalog.watch import Watcher

__all__ = ["Catalog", "Loader", "ModelVersion", "State", "Watcher"]
