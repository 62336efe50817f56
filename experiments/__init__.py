"""What produced a table of the docs, one command each: `python -m experiments.NAME --help`.

A file without a command is a model file: `python -m scripts.train --model-file FILE`.
"""
