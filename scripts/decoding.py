"""The old place of captioning/decoding.py, for notebooks that import the methods from here.

    from scripts.decoding import beams, sample
"""

from captioning.decoding import (
    Caption,
    attention_weights,
    beam_search,
    beams,
    greedy,
    likeliest_words,
    sample,
)
from captioning.decoding import length_normalized as rank

__all__ = ['Caption', 'attention_weights', 'beam_search', 'beams', 'greedy', 'likeliest_words',
           'rank', 'sample']
