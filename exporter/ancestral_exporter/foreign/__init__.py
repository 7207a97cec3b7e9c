"""Models that other people trained: from their files to verified bundles.

`source` reads an ONNX file and runs it as it is, `layout` and `scale` say how its numbers are images, `around` puts
bytes in front of it and behind it, `onnx_model` is all of that as one model of a bundle; `kl` does the same for the
autoencoders of diffusers. `write` adds the card; `commands` is the command line.
"""
