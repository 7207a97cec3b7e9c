"""A raster role as machine code for NVIDIA GPUs: one launch paints one image row of many samples.

    reading     the weights of a gated PixelCNN, out of its row graph
    packing     those weights as the kernel wants them, and the sizes that it is compiled for
    pixelcnn_row.cu, on_cpu.h
                the kernel, and what has g++ compile it for the CPU: the same answers without a GPU
    on_cpu      that build, and a bundle's images painted by it
    nvrtc       machine code, by NVIDIA's compiler: needs neither a GPU nor its driver
    compiling   one compilation, in a process of its own, so that the code is the same each time
    form        all of it together: the files and the manifest's entry that a bundle gets

A net that the kernel does not cover raises NotCovered; everything serves without a kernel too.
"""
