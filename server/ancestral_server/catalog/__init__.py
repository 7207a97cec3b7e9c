"""Which models there are, now: versions appear, take over, drain and go without a call being lost.

folder    what lies on disk: versions, stamps that tell when one has changed, and what was meant to be a version
loader    a folder to a version: read, verified, warm; on a thread
version   one version: its state, its lanes, who uses it
shelf     versions in order, by name and number
retry     when one that was refused is tried again although its files are the same
catalog   all versions: what answers a call, and every change of it
watch     keeps the catalog as the folder is
"""

from ancestral_server.catalog.catalog import Catalog
from ancestral_server.catalog.folder import MAX_VERSION, Key
from ancestral_server.catalog.loader import Loader
from ancestral_server.catalog.version import ModelVersion, State
from ancestral_server.catalog.watch import Watcher

__all__ = ["MAX_VERSION", "Catalog", "Key", "Loader", "ModelVersion", "State", "Watcher"]
