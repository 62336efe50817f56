"""Scores of captions against what people wrote: BLEU, METEOR, ROUGE-L, CIDEr, SPICE, with 95 % intervals.

    python -m scripts.evaluate runs/NAME/best.pt --beam-size 3
    python -m scripts.evaluate --results captions.json --annotations captions_val2014.json --against others.json

    references = References(annotation_file)    # tokenised once
    scores = score(results, references)         # results: [{'image_id': ..., 'caption': ...}], the COCO results format

The numbers are those of the field's reference code (pycocoevalcap), whose scorers are called here: BLEU (Papineni et
al. 2002), METEOR 1.5 (Denkowski & Lavie 2014), ROUGE-L (Lin 2004), CIDEr (Vedantam et al. 2015; the variant that they
call CIDEr-D) and SPICE (Anderson et al. 2016). All are fractions, higher is better; papers print them x100. METEOR,
SPICE and the reference's tokenizer are Java programs: the command runs them where it finds Java; training, every epoch,
does without (METEOR alone takes 10 s).
"""

import argparse
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
from nltk.tokenize import NLTKWordTokenizer
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_test
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer import ptbtokenizer

from scripts import run_main, write_aside
from scripts.annotations import read_annotations
from scripts.mistakes import format_words, judge_words

SCORES = ('BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'METEOR', 'ROUGE-L', 'CIDEr', 'SPICE')
CACHE = Path(__file__).resolve().parent.parent / 'data' / 'cache' / 'references'

# ---- Tokens, as the Penn Treebank splits them, without punctuation ----

# Where the tokenizers of Java and nltk differ on captions: abbreviations keep their full stop, any other word loses it
# even inside a line; brackets get names; <unk>, '!!' and 'n' stay whole. Found by trying every word of Flickr8k.
KEEPS_STOP = re.compile(r"""(?:[a-z]\.)*[a-z]|adm|ala|apr|ariz|assn|aug|ave|bldg|blvd|brig|bros|calif|capt|co|col|colo
    |conn|corp|cpl|ct|dec|dept|det|drs?|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|gov|hon|inc|intl|jan|jr|jul|jun|lt|ltd|maj
    |mar|md|mich|minn|mo|mon|mont|mrs?|ms|mt|neb|nev|nov|oct|okla|penn|pres|prof|rd|rep|rev|rt|sens?|sept?|sgt|sq|sr
    |ste?|supt|tel|tenn|thu|thurs|tues?|univ|va|vs|vt|wed|wis|wyo""", re.VERBOSE)
FULL_STOP = re.compile(r'''([^\s"(\[]*[\w'])\.(?=[\s"')\]]|$)''')
LOOSE = re.compile(r'=|(?<!\S)-(?=[a-z])|(?<=\w)-(?!\S)')       # signs that stand alone
WHOLE = re.compile(r"<\w+>|[?!]{2,}|'n'|(?<!\w)'(?:em\b|\d0s)")    # kept from nltk in full-width letters
WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
NARROW = {wide: code for code, wide in WIDE.items()}
SIGNS = str.maketrans({'“': '"', '”': '"', '‘': "'", '’': "'", '–': ' -- ', '—': ' -- ', '…': ' ... '})
BRACKETS = {'(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-', '{': '-lcb-', '}': '-rcb-'}


def tokenize_python(captions):
    """Captions -> their tokens joined by spaces, as tokenize_java gives them (the same for 99.99 % of Flickr8k's)."""
    split = NLTKWordTokenizer().tokenize

    def full_stop(match):
        word = match[1]
        return word + ('.' if KEEPS_STOP.fullmatch(word) else ' .')

    lines = []
    for caption in captions:
        text = WHOLE.sub(lambda match: f' {match[0].translate(WIDE)} ', caption.lower().translate(SIGNS))
        text = LOOSE.sub(r' \g<0> ', FULL_STOP.sub(full_stop, text)) + ' .'    # nltk looks for one at the end only
        tokens = [BRACKETS.get(token, token) for token in split(text)]
        tokens = [token for token in tokens if token.strip('.') and token not in ptbtokenizer.PUNCTUATIONS]
        lines.append(' '.join(tokens).translate(NARROW))
    return lines


def tokenize_java(captions):
    """Captions -> their tokens joined by spaces, by the reference's PTB tokenizer (Stanford CoreNLP 3.4.1)."""
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    # Not through PTBTokenizer.tokenize, which writes into its own package: that may be read-only.
    run = subprocess.run(['java', '-cp', jar, 'edu.stanford.nlp.process.PTBTokenizer', '-preserveLines', '-lowerCase',
                          '-encoding', 'utf-8'], capture_output=True, encoding='utf-8', errors='replace',
                         input=''.join(' '.join(caption.split()) + '\n' for caption in captions))
    lines = run.stdout.split('\n')[:-1]
    if len(lines) != len(captions):
        raise RuntimeError(f"Java's tokenizer gave {len(lines)} lines for {len(captions)}: {run.stderr.strip()[-200:]}")
    return [' '.join(token for token in line.split() if token not in ptbtokenizer.PUNCTUATIONS) for line in lines]


@functools.cache
def java_works():
    """Whether there is a Java to run (macOS has a `java` that only says that there is none)."""
    return bool(shutil.which('java')) and subprocess.run(['java', '-version'], capture_output=True).returncode == 0


# ---- What is compared ----

class References:
    """What people wrote about each image, tokenised once and kept on disk.

    image_ids: only these images. java: the reference's tokenizer and the scores that need Java, where Java is found.
    leave_first_out: without each image's first caption, so that people can be scored too.
    Attributes: image_ids, those with captions; captions and tokens {image id: [str]}; first {image id: str}; tokenizer.
    Raises ValueError when no caption is left, and what read_annotations raises.
    """

    def __init__(self, annotations_file, image_ids=None, java=False, leave_first_out=False, cache_dir=CACHE):
        self.java, self.asked_java = java and java_works(), java
        self.tokenizer = 'java' if self.java else 'python'
        found = read_annotations(annotations_file)
        wanted = [image['id'] for image in found['images']] if image_ids is None else image_ids
        captions = {image_id: [] for image_id in wanted}
        for entry in found['annotations']:
            if entry['image_id'] in captions and str(entry['caption']).strip():
                captions[entry['image_id']].append(str(entry['caption']))
        self.first = {image_id: own[0] for image_id, own in captions.items() if own}
        self.captions = {image_id: own[leave_first_out:] for image_id, own in captions.items() if own[leave_first_out:]}
        if not self.captions:
            raise ValueError(f'{annotations_file} has no captions to score against.')
        self.image_ids = list(self.captions)
        lines = iter(self._tokenize_once([c for captions in self.captions.values() for c in captions], cache_dir))
        self.tokens = {image_id: [next(lines) for _ in captions] for image_id, captions in self.captions.items()}
        self.bleu, self.cider = BleuScorer(), CiderScorer()      # n-grams counted once
        for tokens in self.tokens.values():
            self.bleu.cook_append(None, tokens)
            self.cider.cook_append(None, tokens)
        self.cider.compute_doc_freq()

    def tokenize(self, captions):
        return (tokenize_java if self.java else tokenize_python)(captions)

    def _tokenize_once(self, captions, cache_dir):
        if cache_dir is None:
            return self.tokenize(captions)
        key = '\n'.join([self.tokenizer, Path(__file__).read_text('utf-8'), *captions])
        key = hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]
        kept = Path(cache_dir) / f'{key}.json'
        with contextlib.suppress(OSError, ValueError):
            return json.loads(kept.read_text())
        lines = self.tokenize(captions)
        with contextlib.suppress(OSError), write_aside(kept) as aside:    # a full disk costs time, not the scores
            aside.write_text(json.dumps(lines))
        return lines


def read_results(file, annotations, missing_as_empty=False):
    """Read a COCO results file -> [{'image_id': ..., 'caption': str}], one for each image of `annotations`.

    annotations: what read_annotations gives. missing_as_empty: an image without a caption, or with an empty one, counts
    as the empty caption. Raises ValueError that names the file, the entry and what to do.
    """
    expected = 'Expected [{"image_id": 1, "caption": "a dog"}], the COCO results format.'
    try:
        entries = json.loads(Path(file).read_text(encoding='utf-8-sig'))
    except FileNotFoundError:
        raise FileNotFoundError(f'results file {file} not found.') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is not JSON ({error}). {expected}') from None
    if not isinstance(entries, list):
        raise ValueError(f'{file} holds a {type(entries).__name__}, not a list: an annotation file? {expected}')
    known = {image['id'] for image in annotations['images']}
    results = {}
    for number, entry in enumerate(entries, start=1):
        image_id, caption = (entry.get('image_id'), entry.get('caption')) if isinstance(entry, dict) else (None, None)
        problem = (
            f'lacks an image_id or a caption that is text: {str(entry)[:60]}. {expected}'
            if not isinstance(image_id, (int, str)) or not isinstance(caption, str) else
            f'is of image {image_id!r}, which the annotations do not list. Is it of another split?'
            if image_id not in known else
            f'is a second caption of image {image_id!r}. Keep one for each image.' if image_id in results else
            f'(image {image_id!r}) has an empty caption. Score it as a miss with --missing-as-empty.'
            if not caption.strip() and not missing_as_empty else None)
        if problem:
            raise ValueError(f'{file}: entry {number} of {len(entries)} {problem}')
        results[image_id] = caption
    needed = {entry['image_id'] for entry in annotations.get('annotations', ())} & known or known
    if (missing := [image_id for image_id in needed if image_id not in results]) and not missing_as_empty:
        raise ValueError(f'{file} has no caption of {len(missing):,} among {len(needed):,} images, such as '
                         f'{missing[0]!r}. Caption them, or score them as misses with --missing-as-empty.')
    results |= dict.fromkeys(missing, '')
    return [{'image_id': image_id, 'caption': caption} for image_id, caption in results.items()]


# ---- Scores ----

def score(results, references, draws=0, seed=0):
    """Score captions -> dict.

    SCORES: float fractions, None where not computed. 'unavailable': {score: why, and how to enable it}. 'tokenizer':
    'python' or 'java'. 'images': how many. 'cider_per_image': {image id: float}. 'intervals', with draws (1,000 is
    usual): {score: (low, high)}, 95 % bootstrap intervals over images (Efron 1979), the references held fixed.

    results: [{'image_id': ..., 'caption': str}], one for every image of `references`; others are ignored.
    Raises ValueError for an image without a caption. 1,000 images take about 1 s without draws.
    """
    values, statistics, unavailable = _measure(results, references)
    scores = {name: values.get(name) for name in SCORES}
    scores |= {'tokenizer': references.tokenizer, 'images': len(references.image_ids), 'unavailable': unavailable}
    scores['cider_per_image'] = dict(zip(references.image_ids, statistics['CIDEr'][:, 0].tolist(), strict=True))
    if draws:
        scores['intervals'] = {name: _interval(drawn) for name, drawn in _bootstrap(statistics, draws, seed).items()}
    return scores


def _measure(results, references):
    """-> scores {name: float}, statistics {scorer: (N, S) whose column sums give the corpus score}, unavailable."""
    captions = {result['image_id']: result['caption'] for result in results}
    if missing := [image_id for image_id in references.image_ids if image_id not in captions]:
        raise ValueError(f'{len(missing):,} of {len(references.image_ids):,} images have no caption, such as '
                         f'{missing[0]!r}. Caption them, or leave them out: References(file, image_ids=...).')
    candidates = references.tokenize([captions[image_id] for image_id in references.image_ids])
    tokens = list(references.tokens.values())

    bleu = references.bleu.retest(candidates)
    values = dict(zip(SCORES[:4], bleu.compute_score(option='closest')[0], strict=True))
    counts = [(c['testlen'], bleu._single_reflen(c['reflen'], 'closest', c['testlen']), *c['correct'], *c['guess'])
              for c in bleu.ctest]
    references.cider.ctest = [cook_test(candidate) for candidate in candidates]
    rouge = Rouge()
    statistics = {
        'BLEU': np.array(counts, float),
        'ROUGE-L': np.array([[rouge.calc_score([c], own)] for c, own in zip(candidates, tokens, strict=True)]),
        'CIDEr': np.array(references.cider.compute_cider())[:, None],
    }
    unavailable = {}
    for name, scorer in {'METEOR': _meteor, 'SPICE': _spice}.items():
        try:
            if not references.java:
                raise RuntimeError('needs Java, which was not found: install it (apt install default-jre, or '
                                   'https://adoptium.net)' if references.asked_java else 'needs Java, left out '
                                   'here: python -m scripts.evaluate uses it, unless --no-java')
            statistics[name] = scorer(candidates, tokens)
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            unavailable[name] = str(error)
    sums = {name: rows.sum(0, keepdims=True) for name, rows in statistics.items() if name != 'BLEU'}
    return values | {name: float(total[0]) for name, total in _corpus_scores(sums, len(tokens)).items()}, \
        statistics, unavailable


def _corpus_scores(sums, n):
    """Column sums of statistics {scorer: (D, S)} over n images, D times -> {score: (D,)}."""
    scores = {}
    for name, columns in sums.items():
        if name == 'BLEU':
            tested, wanted = columns[:, 0] + 1e-15, columns[:, 1] + 1e-9    # the small numbers are the reference's
            precision = np.cumprod((columns[:, 2:6] + 1e-15) / (columns[:, 6:] + 1e-9), axis=1)
            brevity = np.exp(np.minimum(0, 1 - wanted / tested))
            scores |= {f'BLEU-{k}': precision[:, k - 1] ** (1 / k) * brevity for k in (1, 2, 3, 4)}
        elif name == 'METEOR':
            scores[name] = _meteor_scores(columns)
        else:
            scores[name] = columns[:, 0] / n
    return scores


def _bootstrap(statistics, draws, seed):
    """Scores of `draws` sets of images drawn with replacement -> {score: (draws,)}."""
    random, n = np.random.default_rng(seed), len(statistics['CIDEr'])
    rows, widths = np.hstack(list(statistics.values())), [columns.shape[1] for columns in statistics.values()]
    sums = np.stack([np.bincount(random.integers(n, size=n), minlength=n) @ rows for _ in range(draws)])
    return _corpus_scores(dict(zip(statistics, np.split(sums, np.cumsum(widths)[:-1], axis=1), strict=True)), n)


def _interval(drawn):
    return tuple(np.quantile(drawn, (0.025, 0.975)).tolist())


@functools.cache
def _meteor_process():
    from pycocoevalcap.meteor.meteor import Meteor
    return Meteor()


def _meteor(candidates, references):
    """Statistics of METEOR (N, 23); their sums give the corpus score, which is no mean over images."""
    process = _meteor_process()
    rows = [process._stat(candidate, own) for candidate, own in zip(candidates, references, strict=True)]
    if not all(rows):
        raise RuntimeError("METEOR's Java process ended: it needs 2 GB of memory")
    rows = np.array([row.split() for row in rows], float)
    whole = (rows[:, 20] == 1) & (rows[:, 21] == rows[:, 0]) & (rows[:, 22] == rows[:, 1])
    rows[whole, 20] = 0     # METEOR sums chunks of imperfect matches only
    return rows


def _meteor_scores(sums):
    pipe = _meteor_process().meteor_p
    pipe.stdin.write(''.join(['EVAL', *(' ||| ' + ' '.join(map(str, row)) for row in sums.tolist()), '\n']).encode())
    pipe.stdin.flush()
    return np.array([float(pipe.stdout.readline()) for _ in range(len(sums) + 1)][:-1])    # the last is their sum's


def _spice(candidates, references):
    """F-score of each image (N, 1); nan, as the reference gives it where nothing can be compared, counts as 0."""
    from pycocoevalcap.spice import spice
    models = Path(spice.__file__).parent / 'lib'
    if not all((models / f'stanford-corenlp-3.6.0{part}.jar').exists() for part in ('', '-models')):
        raise RuntimeError('needs Stanford CoreNLP 3.6.0 (a download of 0.5 GB): '
                           'python -m pycocoevalcap.spice.get_stanford_models')
    # Java 9 and later must be told that SPICE's cache may look inside Java's own classes; Java 8 does not read this.
    packages = ('lang', 'io', 'math', 'net', 'text', 'util', 'util.concurrent')
    os.environ.setdefault('JDK_JAVA_OPTIONS', ' '.join(f'--add-opens=java.base/java.{p}=ALL-UNNAMED' for p in packages))
    numbered = dict(enumerate(references)), {row: [candidate] for row, candidate in enumerate(candidates)}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            scores = spice.Spice().compute_score(*numbered)[1]
    except subprocess.CalledProcessError:
        raise RuntimeError("failed: Java's message is above. It needs 8 GB of memory") from None
    return np.nan_to_num([[image["All"]["f"]] for image in scores])


def paired_test(results_a, results_b, references, draws=1000, seed=0):
    """Is b better than a? -> {score: {'difference': b - a, 'interval': (low, high), 'p': float}}.

    Paired bootstrap (Koehn 2004, Statistical significance tests for machine translation evaluation): both are scored on
    the same drawn sets of images. p is two-sided, at least 2 / (draws + 1); the interval holds 95 % of the differences.
    """
    (values_a, *a), (values_b, *b) = (_measure(results, references) for results in (results_a, results_b))
    drawn_a, drawn_b = (_bootstrap(statistics, draws, seed) for statistics, _ in (a, b))
    tests = {}
    for name in drawn_a.keys() & drawn_b.keys():
        drawn = (drawn_b[name] - drawn_a[name]).round(12)    # a draw of images on which both agree counts for neither
        tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
        tests[name] = {'difference': values_b[name] - values_a[name], 'interval': _interval(drawn),
                       'p': min(1.0, 2 * float(tail + 1) / (draws + 1))}
    return {name: tests[name] for name in SCORES if name in tests}


def human_line(annotations_file, draws=0, **options):
    """Scores of people: each image's first caption against its others. options: those of References."""
    references = References(annotations_file, leave_first_out=True, **options)
    return score(first_captions(references), references, draws)


def first_captions(references):
    """Each image's first caption, in the results format."""
    return [{'image_id': image_id, 'caption': references.first[image_id]} for image_id in references.image_ids]


# Words that no sentence ends with; "in", "on" and the like are not among them: "a man looks on".
OPEN = frozenset('''a an and are as at because been beside between during from has his into is its my of onto or our
    than the their to toward towards very wearing while who whose with your'''.split())


def _words(caption):
    return tuple(re.findall(r"[\w'-]+", caption.lower()))


def diversity(results, train_captions=None):
    """How varied captions are -> {'captions', 'distinct', 'words' (distinct), 'length' (mean, in words), 'broken',
    'in_train'}.

    broken: share that end in a word that leaves a sentence open, such as "a dog with a"; people write hardly any.
    in_train: share found word for word, case and punctuation aside, in train_captions (an iterable of str), or None.
    """
    sentences, known = [_words(result['caption']) for result in results], set(map(_words, train_captions or ()))
    return {'captions': len(sentences), 'distinct': len(set(sentences)),
            'words': len({word for sentence in sentences for word in sentence}),
            'length': sum(map(len, sentences)) / max(len(sentences), 1),
            'broken': sum(bool(sentence) and sentence[-1] in OPEN for sentence in sentences) / max(len(sentences), 1),
            'in_train': sum(s in known for s in sentences) / max(len(sentences), 1) if train_captions else None}


def judge_scenes(results, annotations):
    """How often captions of the built-in scenes are right -> {'seen' and 'held-out': {what: share}}.

    what: 'thing' (the main one, by any noun for it); its 'count' ('a', 'two', 'a couple of'; a plural alone is wrong)
    and 'colour'; 'several', the count where it is not one; 'place'; 'relation', to the second thing. Shares of scenes
    that have it; None where none has. Held-out scenes show the main thing in a colour that training never shows it in.
    """
    words, scenes = annotations['info']['words'], {image['id']: image['scene'] for image in annotations['images']}
    numbers = {word: int(count) for count, own in words['count'].items() for word in own}
    verdicts = {}
    for result in results:
        scene, said = scenes[result['image_id']], _words(result['caption'])
        main, *others = scene['objects']
        at = next((place for place, word in enumerate(said) if word in main['nouns']), None)
        before = [numbers[word] for word in said[max((at or 0) - 4, 0):at or 0] if word in numbers]
        counted = before[-1:] == [main['count']] and (main['count'] > 1 or said[at] in main['nouns'][::2])
        judged = {'thing': at is not None, 'count': counted, 'colour': main['colour'] and main['colour'] in said,
                  'several': counted if main['count'] > 1 else None,
                  'place': not set(said).isdisjoint(words['place'][scene['place']]), 'relation': None}
        if main['relation']:
            phrases, nouns = '|'.join(words['relation'][main['relation']]), '|'.join(others[0]['nouns'])
            judged['relation'] = bool(re.search(rf'\b({phrases}) (\S+ ){{0,4}}({nouns})\b', ' '.join(said)))
        verdicts.setdefault('held-out' if scene['held_out'] else 'seen', []).append(judged)
    shares = {}
    for group, rows in verdicts.items():
        columns = {what: [row[what] for row in rows if row[what] is not None] for what in rows[0]}
        shares[group] = {what: sum(own) / len(own) if own else None for what, own in columns.items()}
    return shares


def scene_mistakes(result, annotations):
    """What judge_scenes finds wrong in one caption -> list of 'thing', 'colour', 'place', ..."""
    verdict, = judge_scenes([result], annotations).values()
    return [what for what, share in verdict.items() if share == 0]


def ranked_examples(scores, n=4):
    """Image ids by CIDEr: {'best': n, 'median': n, 'worst': n}, each from high to low."""
    ranked = sorted(scores['cider_per_image'], key=scores['cider_per_image'].get, reverse=True)
    middle = max((len(ranked) - n) // 2, 0)
    return {'best': ranked[:n], 'median': ranked[middle:middle + n], 'worst': ranked[-n:]}


# ---- Tables and the command ----

def format_scores(columns):
    """Scores of one or more sets of captions {name: what `score` gives} -> text table, x100 as in papers."""
    def cell(scores, name):
        if scores[name] is None:
            return '-'
        low, high = scores.get('intervals', {}).get(name, (None, None))
        return f'{scores[name]:.1%}'.rstrip('%') + ('' if low is None else f'  [{100 * low:.1f}, {100 * high:.1f}]')

    rows = [['x100', *columns], *([name, *(cell(scores, name) for scores in columns.values())] for name in SCORES)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['   '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    first = next(iter(columns.values()))
    tokenizer = "the reference's PTB tokenizer (Java)" if first['tokenizer'] == 'java' else 'a PTB tokenizer in Python'
    lines.append(f'{first["images"]:,} images; tokens by {tokenizer}{"; [95 % interval]" * ("intervals" in first)}')
    return '\n'.join(lines + [f'{name} {why}' for name, why in first['unavailable'].items()])


def format_tests(tests):
    """What paired_test gives -> text table, x100."""
    lines = []
    for name, test in tests.items():
        difference, low, high = (100 * value for value in (test['difference'], *test['interval']))
        verdict = 'different' if test['p'] < 0.05 else 'not shown to differ'
        lines.append(f'{name:7}  {difference:+.1f}  [{low:+.1f}, {high:+.1f}]  p = {test["p"]:.3f}  {verdict}')
    return '\n'.join(lines)


def format_notes(diverse, scenes=None):
    """What `diversity` and judge_scenes give -> text."""
    line = '{distinct:,} of {captions:,} captions are distinct; {words:,} different words; {length:.1f} words a caption'
    lines = [line.format(**diverse)]
    if diverse['broken']:
        lines[0] += f'; {diverse["broken"]:.1%} break off ("with a")'
    if diverse['in_train'] is not None:
        lines[0] += f'; {diverse["in_train"]:.0%} stand word for word in training'
    for group, shares in (scenes or {}).items():
        found = ', '.join(f'{what} {share:.0%}' for what, share in shares.items() if share is not None)
        lines.append(f'{group} scenes: {found}')
    return '\n'.join(lines)


def caption_split(checkpoint, cocoapi_loc, split='val', beam_size=1, limit=None, model_file=None):
    """Caption the images of a split (its first `limit`) in file order -> results, without unreadable ones."""
    from scripts.checkpoint import load_captioner
    from scripts.features import split_features
    captioner = load_captioner(checkpoint, model_file=model_file)
    features, unreadable, images = split_features(captioner.encoder, cocoapi_loc, split, limit)    # (N, C)
    rows = np.setdiff1d(np.arange(len(images)), unreadable)
    captions = captioner.caption_features(features, beam_size=beam_size, rows=rows)
    return [{'image_id': images[row]['id'], 'caption': caption} for row, caption in zip(rows, captions, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', nargs='?', help='captions the split, such as runs/NAME/best.pt')
    parser.add_argument('--model-file', help='the model.py of the run, where the one here was edited; it is run')
    parser.add_argument('--results', help='COCO results file to score instead')
    parser.add_argument('--annotations', help='COCO captions file to score --results against')
    parser.add_argument('--cocoapi-loc', help='folder that holds cocoapi/ (default: as the notebooks)')
    parser.add_argument('--split', default='val', choices=('val', 'test'))
    parser.add_argument('--beam-size', type=int, default=1, help='1 is greedy')
    parser.add_argument('--limit', type=int, help='caption only the first LIMIT images')
    parser.add_argument('--results-out', help='file for the captions (default: beside the checkpoint)')
    parser.add_argument('--json', help='file for the scores')
    parser.add_argument('--against', help='another results file: test whether the two differ')
    parser.add_argument('--human', action='store_true', help="score each image's first caption against its others too")
    parser.add_argument('--missing-as-empty', action='store_true', help='score images without a caption as misses')
    parser.add_argument('--no-java', action='store_true', help='leave out what needs Java')
    args = parser.parse_args()
    if bool(args.checkpoint) + bool(args.results) != 1 and not (args.human and not args.checkpoint):
        parser.error('give a checkpoint, or --results FILE, or --human alone')
    if args.against and not (args.checkpoint or args.results):
        parser.error('--against needs captions to compare: a checkpoint or --results FILE')
    if args.annotations and args.checkpoint:
        parser.error('--annotations goes with --results; a checkpoint captions the images under --cocoapi-loc')

    file = args.annotations
    if not file:    # imported here because it loads torch, which scoring does without
        from data_loader import annotation_file, resolve_cocoapi_loc
        loc = resolve_cocoapi_loc(args.cocoapi_loc)
        file = annotation_file(loc, args.split)
        file = file.with_name('captions_test2014.json') if args.split == 'test' else file
    results, options = None, {'java': not args.no_java}
    if args.checkpoint:
        results = caption_split(args.checkpoint, loc, args.split, args.beam_size, args.limit, args.model_file)
        options['image_ids'] = [result['image_id'] for result in results]
        out = args.results_out or Path(args.checkpoint).with_name(f'captions_{args.split}_beam{args.beam_size}.json')
        with write_aside(out) as aside:
            aside.write_text(json.dumps(results))
        print(f'{len(results):,} captions are in {out}')
        if not file.exists():
            return print(f'no scores: {file} is not there, the references of this split are withheld')
    annotations = read_annotations(file)
    if args.results:
        results = read_results(args.results, annotations, args.missing_as_empty)

    of_scenes = 'scene' in annotations['images'][0]
    columns, words, report = {}, {}, {}
    if results:
        references = References(file, **options)
        columns['captions'] = score(results, references, draws=1000)
        train = Path(file).with_name('captions_train2014.json')
        train = [str(entry['caption']) for entry in read_annotations(train)['annotations']] if train.exists() else None
        report['diversity'] = diversity(results, train)
        report['scenes'] = judge_scenes(results, annotations) if of_scenes else None
        words['captions'] = judge_words(results, references)
    if args.human:
        columns['people'] = human_line(file, draws=1000, **options)
        fewer = References(file, leave_first_out=True, **options)
        words['people'] = judge_words(first_captions(fewer), fewer)
        if results:
            columns['captions, same references'] = score(results, fewer, draws=1000)
            words['captions'] = judge_words(results, fewer)
    print(format_scores(columns))
    if args.human:
        print('people: the first caption of each image against its others')
    if results:
        print(format_notes(*report.values()))
    if not of_scenes:
        print(format_words(words))
        report['words'] = words
    if args.against:
        others = read_results(args.against, annotations, args.missing_as_empty)
        report['against'] = paired_test(others, results, references)
        print(f'compared with {args.against}:\n{format_tests(report["against"])}')
    if args.json:
        first, *others = columns
        content = {**columns[first], **report, **{name: columns[name] for name in others}}
        with write_aside(args.json) as aside:
            aside.write_text(json.dumps(content, indent=1))


if __name__ == '__main__':
    run_main(main)
