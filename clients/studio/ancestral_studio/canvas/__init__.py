"""What the page shows and takes pixels with: elements of NiceGUI, each a class here and a script beside it.

Shapes: H rows, W columns, C channels (1 or 3). Pixels travel as base64 of their bytes in raster order.
"""

from ancestral_studio.canvas.drawing import Drawing
from ancestral_studio.canvas.plane import Plane
from ancestral_studio.canvas.tiles import Tiles

__all__ = ["Drawing", "Plane", "Tiles"]
