"""METEOR and SPICE, which are Java programs: they are computed where Java is there.

    meteor(captions, references)        # References(..., java=True)

Each takes captions, N strings of tokens in the order of references.image_ids, and raises
Unavailable with what to install where it cannot be computed.
"""

import contextlib
import functools
import io
import os
import subprocess
from pathlib import Path

import numpy as np


class Unavailable(Exception):
    """A metric cannot be computed here: the text says why, and how to enable it."""


def meteor(captions, references):
    """METEOR 1.5 (Denkowski & Lavie 2014, "Meteor Universal") of all captions -> float.

    The Java program computes it from counts over all images; it is no mean over them, so it comes
    without an interval.
    """
    _require_java(references)
    hypotheses, targets = _numbered(captions, references)
    program = _meteor_program()
    try:
        return program.compute_score(targets, hypotheses)[0]
    except (OSError, ValueError):    # it ended: what is written or read breaks off
        program.lock.release()    # held since the call; ending the program would wait for it
        _meteor_program.cache_clear()
        raise Unavailable("METEOR's Java process ended: it needs 2 GB of memory") from None


def spice(captions, references):
    """SPICE (Anderson et al. 2016) of each image, an F-score -> (N,).

    nan, which the reference gives where nothing can be compared, counts as 0.
    """
    _require_java(references)
    from pycocoevalcap.spice.spice import Spice
    _require_spice_models()
    _open_java_classes()
    hypotheses, targets = _numbered(captions, references)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            scores = Spice().compute_score(targets, hypotheses)[1]
    except subprocess.CalledProcessError:
        raise Unavailable("failed: Java's message is above. It needs 8 GB of memory") from None
    except (OSError, ValueError) as error:
        raise Unavailable(str(error)) from None
    return np.nan_to_num([image['All']['f'] for image in scores])


def _require_java(references):
    if references.java:
        return
    if references.asked_java:
        raise Unavailable('needs Java, which was not found: install it (apt install default-jre, '
                          'or https://adoptium.net)')
    raise Unavailable('needs Java, left out here: python -m scripts.evaluate uses it, '
                      'unless --no-java')


def _numbered(captions, references):
    """Hypotheses and targets as pycocoevalcap wants them: {number: [str]} each."""
    hypotheses = {number: [caption] for number, caption in enumerate(captions)}
    return hypotheses, dict(enumerate(references.tokens.values()))


@functools.cache
def _meteor_program():
    from pycocoevalcap.meteor.meteor import Meteor
    return Meteor()    # kept: it loads its tables of paraphrases for some seconds


def _require_spice_models():
    from pycocoevalcap.spice import spice as package
    folder = Path(package.__file__).parent / 'lib'
    models = [folder / f'stanford-corenlp-3.6.0{part}.jar' for part in ('', '-models')]
    if not all(model.exists() for model in models):
        raise Unavailable('needs Stanford CoreNLP 3.6.0 (a download of 0.5 GB): '
                          'python -m pycocoevalcap.spice.get_stanford_models')


def _open_java_classes():
    """Let SPICE's cache look inside Java's classes, which Java 9 and later must be told."""
    packages = ('lang', 'io', 'math', 'net', 'text', 'util', 'util.concurrent')
    options = [f'--add-opens=java.base/java.{package}=ALL-UNNAMED' for package in packages]
    os.environ.setdefault('JDK_JAVA_OPTIONS', ' '.join(options))    # Java 8 does not read it
