"""Raster roles as machine code of an NVIDIA GPU: `Role.kernel` of the manifest says what it is and how it is launched.

driver    libcuda through ctypes, one device of it
variants  which pieces of machine code a device takes, and which of them paints a row
program   a role on that device: its memory, a launch a row
proof     whether a kernel gives the recorded answers, in a process of its own
choice    a kernel that may serve, or why the graph has to

Nothing here imports onnxruntime: the process that proves a kernel starts in a moment.
"""
