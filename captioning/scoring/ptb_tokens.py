"""The tokenizer of captions: words as the Penn Treebank (PTB) splits them, without punctuation.

    tokenize_python(["A man's dogs, too."])     # ["a man 's dogs too"]
    tokenize_java(captions)                     # the reference code's tokenizer, where java_works()

Scores are comparable with those of papers only if captions are split as the field's reference code
(pycocoevalcap) splits them. Its tokenizer is a Java program; the one in Python does without Java.
"""

import functools
import re
import shutil
import subprocess
from pathlib import Path

# The rest of this file down to `tokenize_python` is where the tokenizers of Java and nltk differ on
# captions. It was found by comparing them on every word of Flickr8k.

# These abbreviations keep their full stop; any other word loses it, even inside a line.
KEEPS_STOP = re.compile(r"""(?:[a-z]\.)*[a-z]|adm|ala|apr|ariz|assn|aug|ave|bldg|blvd|brig|bros
    |calif|capt|co|col|colo|conn|corp|cpl|ct|dec|dept|det|drs?|esq|est|etc|ext|feb|fla|fri|ft|ga|gen
    |gov|hon|inc|intl|jan|jr|jul|jun|lt|ltd|maj|mar|md|mich|minn|mo|mon|mont|mrs?|ms|mt|neb|nev|nov
    |oct|okla|penn|pres|prof|rd|rep|rev|rt|sens?|sept?|sgt|sq|sr|ste?|supt|tel|tenn|thu|thurs|tues?
    |univ|va|vs|vt|wed|wis|wyo""", re.VERBOSE)
FULL_STOP = re.compile(r'''([^\s"(\[]*[\w'])\.(?=[\s"')\]]|$)''')
# Signs that become words of their own: '=', and a hyphen at the start or the end of a word.
LONE_SIGN = re.compile(r'=|(?<!\S)-(?=[a-z])|(?<=\w)-(?!\S)')
# What stays in one piece: <unk>, '!!', 'n' and the like. Full-width letters keep nltk off them.
UNSPLIT = re.compile(r"<\w+>|[?!]{2,}|'n'|(?<!\w)'(?:em\b|\d0s)")
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
ORDINARY_WIDTH = {wide: code for code, wide in FULL_WIDTH.items()}
ASCII_SIGNS = str.maketrans({
    '“': '"', '”': '"', '‘': "'", '’': "'", '–': ' -- ', '—': ' -- ', '…': ' ... '})
BRACKETS = {'(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-', '{': '-lcb-', '}': '-rcb-'}


def tokenize_python(captions):
    """Captions -> their tokens joined by spaces, list of str.

    They are those of `tokenize_java` for 99.99 % of the captions of Flickr8k.
    """
    return [_ptb_tokens(caption) for caption in captions]


def _ptb_tokens(caption):
    text = caption.lower().translate(ASCII_SIGNS)
    text = UNSPLIT.sub(_widened, text)
    text = FULL_STOP.sub(_without_stop, text)
    text = LONE_SIGN.sub(r' \g<0> ', text)
    split = _nltk_tokenizer().tokenize(text + ' .')    # it splits a full stop off at the end only
    named = [BRACKETS.get(token, token) for token in split]
    words = [token for token in named if token.strip('.') and token not in _punctuation()]
    return ' '.join(words).translate(ORDINARY_WIDTH)


def _widened(match):
    return f' {match[0].translate(FULL_WIDTH)} '


def _without_stop(match):
    word = match[1]
    return f'{word}.' if KEEPS_STOP.fullmatch(word) else f'{word} .'


@functools.cache
def _nltk_tokenizer():
    from nltk.tokenize import NLTKWordTokenizer  # here, because nltk takes 0.7 s to import
    return NLTKWordTokenizer()


@functools.cache
def _punctuation():
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS
    return frozenset(PUNCTUATIONS)


def tokenize_java(captions):
    """Captions -> their tokens joined by spaces, by the reference's PTB tokenizer, list of str.

    It is that of Stanford CoreNLP 3.4.1. RuntimeError says why it failed.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    # Not through PTBTokenizer.tokenize, which writes into its own package: that may be read-only.
    command = ['java', '-cp', jar, 'edu.stanford.nlp.process.PTBTokenizer',
               '-preserveLines', '-lowerCase', '-encoding', 'utf-8']
    text = ''.join(' '.join(caption.split()) + '\n' for caption in captions)
    run = subprocess.run(command, input=text, capture_output=True, encoding='utf-8',
                         errors='replace')
    lines = run.stdout.split('\n')[:-1]
    if len(lines) != len(captions):
        reason = run.stderr.strip()[-200:]
        raise RuntimeError(
            f"Java's tokenizer gave {len(lines)} lines for {len(captions)}: {reason}")
    return [_without_punctuation(line) for line in lines]


def _without_punctuation(line):
    return ' '.join(token for token in line.split() if token not in _punctuation())


@functools.cache
def java_works():
    """Is there a Java that runs? (macOS has a `java` that only says that there is none.)"""
    if not shutil.which('java'):
        return False
    return subprocess.run(['java', '-version'], capture_output=True).returncode == 0
