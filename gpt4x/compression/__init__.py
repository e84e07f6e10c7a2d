"""Smaller models of larger ones: trees of parameters to trees of parameters, and the objects that lie in them.

    integers.py      kernels of eight and four bits
    quantization.py  which kernels of a model are such, stored or in training
    training_products.py  products of eight bits in training
    calibration.py   second moments of what kernels multiply on given text
    calibrated.py    four bits that fit these: GPTQ, AWQ
    second_order.py  the arithmetic of rounding and pruning that make up for their errors
    pruning.py       weights that become zero
    structured.py    heads, MLP columns, layers and experts that go
"""
