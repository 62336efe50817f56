"""Speed and memory of this machine: `python -m scripts.benchmark`.

A module for each thing that is measured: training, encoding, decoding, data. A part is a function
that takes a CaptionData and prints a table; the first paragraph of its docstring is the heading.
"""
