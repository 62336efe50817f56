"""What an encoder knows: probabilities of words for an image, before any caption is written.

    from captioning.recognition import SharedEncoder, recognizer_for
    recognizer, reason = recognizer_for(captioner)          # None and why, where there is none
    features, pooled = SharedEncoder(captioner).encode(images)
    probabilities = recognizer.probabilities(pooled)        # (N, W), of recognizer.words

    imagenet_words.tsv      a plain word for each of ImageNet's 1,000 classes, to be read and edited
    words.py                that table as Python values: Word, words_of
    recognizer.py           ImageNetRecognizer: the classifier that the encoder was; those that ship
    linear.py               LinearRecognizer, which is trained in seconds
    from_text.py            one that learns words from captions without photos
    people.py               words for people
    untuned.py              SharedEncoder: a captioner's features, and those that a recognizer reads
    like_words.py           KnownNouns: words of a vocabulary that are like a new one, by WordNet

A recognizer is any object with these, whatever it was trained on:

    words                       list of Word
    backbone_hash               of the CNN whose features it reads, as checkpoints name it
    probabilities(features)     pooled features (N, C) of that CNN as its weights file has it, never
                                of a tuned stage -> (N, W) float32 in 0..1; words need not exclude
                                each other, and a row may add up to any number
"""

from captioning.recognition.from_text import SecondOpinion, recognizer_from_text
from captioning.recognition.linear import LinearRecognizer, trained_recognizer
from captioning.recognition.recognizer import (
    ImageNetRecognizer,
    Recognizers,
    load_recognizer,
    recognizer_for,
)
from captioning.recognition.untuned import SharedEncoder, untuned_encoder
from captioning.recognition.words import Word, read_table, words_of

__all__ = ['ImageNetRecognizer', 'LinearRecognizer', 'Recognizers', 'SecondOpinion',
           'SharedEncoder', 'Word', 'load_recognizer', 'read_table', 'recognizer_for',
           'recognizer_from_text', 'trained_recognizer', 'untuned_encoder', 'words_of']
