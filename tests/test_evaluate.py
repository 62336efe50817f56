"""Scores: equal to the reference's, rubbish refused, intervals and tests that say what they should.

tests/data/captions_eight.json and results_eight.json hold eight made-up images. SCORES_BY_HAND were
computed from them once with the reference implementation (pycocoevalcap 1.2, Java 17, which
`make test` does without):

    coco = COCO('captions_eight.json')
    gts, res = coco.imgToAnns, {r['image_id']: [r] for r in json.load(open('results_eight.json'))}
    gts, res = PTBTokenizer().tokenize(gts), PTBTokenizer().tokenize(res)
    Bleu(4).compute_score(gts, res)[0], Rouge().compute_score(gts, res)
    Cider().compute_score(gts, res)

tests/slow/test_evaluate_java.py does this again, with METEOR.
"""

import json
import re
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.rouge.rouge import Rouge

import model
from captioning import files
from captioning.annotations import read_annotations
from captioning.checkpoint import model_state, save_checkpoint, weights_hash
from captioning.scoring import (
    SCORES,
    References,
    as_results,
    first_captions,
    format_scores,
    format_tests,
    paired_test,
    read_results,
    score,
    tokenize_python,
)
from scripts import evaluate
from vocabulary import Vocabulary

DATA = Path(__file__).parent / 'data'
ANNOTATIONS, RESULTS = DATA / 'captions_eight.json', DATA / 'results_eight.json'
SCORES_BY_HAND = {
    'BLEU-1': 0.8436155971894493, 'BLEU-2': 0.737486314463903, 'BLEU-3': 0.6142481893446167,
    'BLEU-4': 0.5078169950522676, 'ROUGE-L': 0.6445549681273249, 'CIDEr': 1.347493819422465}
CIDER_BY_HAND = [
    1.558138334645135, 1.639440674506551, 1.89211667893106, 1.6141621749686854,
    0.9313334703706924, 0.9948284083981428, 0.13556848746784358, 2.014362326091611]


@pytest.fixture
def references():
    return References(ANNOTATIONS, cache_dir=None)


@pytest.fixture
def results():
    return json.loads(RESULTS.read_text())


def write_annotations(folder, captions):
    """A COCO captions file of {image id: [caption, ...]}."""
    file = folder / 'captions.json'
    images = [{'id': image_id, 'file_name': f'{image_id}.jpg'} for image_id in captions]
    entries = [{'image_id': image_id, 'caption': caption}
               for image_id, each in captions.items() for caption in each]
    file.write_text(json.dumps({'images': images, 'annotations': entries}))
    return file


# ---- The numbers ----

def test_scores_equal_the_reference_by_hand(references, results):
    scored = score(results, references)
    for name, value in SCORES_BY_HAND.items():
        assert scored[name] == pytest.approx(value, abs=1e-6), name
    assert list(scored['cider_per_image'].values()) == pytest.approx(CIDER_BY_HAND, abs=1e-9)
    assert scored['METEOR'] is scored['SPICE'] is None
    assert scored['tokenizer'] == 'python' and 'Java' in scored['unavailable']['METEOR']


def test_order_of_results_and_other_images_do_not_matter(references, results):
    expected = score(results, references)
    Random(0).shuffle(results)
    assert score([*results, {'image_id': 'other', 'caption': 'a dog'}], references) == expected


def test_references_can_be_scored_again(references, results):
    """Counts kept in References are not used up: document frequencies would double, CIDEr too."""
    first = score(results, references)
    score([{**result, 'caption': 'a dog'} for result in results], references)
    assert score(results, references) == first


def test_a_subset_of_images(results):
    image_ids = [result['image_id'] for result in results[:5]]
    scored = score(results, References(ANNOTATIONS, image_ids=image_ids, cache_dir=None))
    assert list(scored['cider_per_image']) == image_ids and scored['images'] == 5


def test_annotations_that_were_read_already_give_the_same_references(references):
    content = read_annotations(ANNOTATIONS)
    again = References('not read', annotations=content, cache_dir=None)
    assert again.tokens == references.tokens and again.captions == references.captions


def test_what_people_wrote_scores_highest(references):
    last = {image_id: captions[-1] for image_id, captions in references.captions.items()}
    scored = score(as_results(last), references)
    assert [scored[f'BLEU-{n}'] for n in (1, 2, 3, 4)] == pytest.approx([1] * 4)
    assert scored['ROUGE-L'] == pytest.approx(1)
    assert scored['CIDEr'] > SCORES_BY_HAND['CIDEr']


def test_empty_captions_score_nothing(references, results):
    scored = score([{**result, 'caption': ''} for result in results], references, draws=20)
    assert [scored[name] for name in SCORES_BY_HAND] == pytest.approx([0] * 6, abs=1e-9)


@pytest.mark.parametrize(('caption', 'tokens'), {    # right: what Java's tokenizer gave
    "A man's dogs' toys aren't here": "a man 's dogs toys are n't here",
    'A dog. A cat (asleep), too...': 'a dog a cat -lrb- asleep -rrb- too',
    'Mr. Smith on Main St. near Mt. Fuji': 'mr. smith on main st. near mt. fuji',
    '5 p.m. in the U.S. at 5 pm. in U.S.A.': '5 p.m. in the u.s. at 5 pm in u.s.a.',
    'wow!!! really?! yes!': 'wow !!! really ?! yes',
    'He cannot gimme it; black/white t-shirt, 10:30':
        'he can not gim me it black/white t-shirt 10:30',
    '“Stop” — said ‘the’ sign –': 'stop said the sign',
    "Rock 'n' roll in the '90s": "rock 'n' roll in the '90s",
    'a <unk> dog - and -odd words- x=y': 'a <unk> dog and odd words x = y',
    ' ... . !': '',
}.items())
def test_tokens_follow_the_ptb_rules(caption, tokens):
    assert tokenize_python([caption]) == [tokens]


def test_references_are_tokenised_once(tmp_path):
    first = References(ANNOTATIONS, cache_dir=tmp_path)
    kept, = tmp_path.iterdir()
    lines = json.loads(kept.read_text())
    kept.write_text(json.dumps(['a token from the cache', *lines[1:]]))
    again = References(ANNOTATIONS, cache_dir=tmp_path)
    assert again.tokens[3][0] == 'a token from the cache'
    assert first.tokens[3][1:] == again.tokens[3][1:]
    kept.write_text('damaged')
    assert References(ANNOTATIONS, cache_dir=tmp_path).tokens == first.tokens
    References(ANNOTATIONS, leave_first_out=True, cache_dir=tmp_path)    # other captions
    assert len(list(tmp_path.iterdir())) == 2


def test_tokens_are_kept_in_the_cache_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'CACHE', tmp_path)
    References(ANNOTATIONS)
    kept, = (tmp_path / 'references').iterdir()
    assert kept.suffix == '.json'


# ---- Rubbish ----

GOOD = [{'image_id': 1, 'caption': 'a dog'}, {'image_id': 2, 'caption': 'a cat'}]


@pytest.mark.parametrize(('content', 'message'), [
    ('a dog', 'is not JSON'),
    ('[' * 100_000, 'is not JSON'),
    (b'\xff\xfe\x00', 'is not JSON'),
    ({'annotations': GOOD}, 'holds a dict, not a list'),
    ([*GOOD, {'image_id': 3, 'caption': 'a cow'}],
     'entry 3 of 3 is of image 3, which the annotations do not list'),
    ([*GOOD, {'image_id': '1', 'caption': 'a cow'}], "is of image '1', which"),
    ([*GOOD, GOOD[0]], 'entry 3 of 3 is a second caption of image 1'),
    (GOOD[:1], 'no caption of 1 among 2 images, such as 2.*--missing-as-empty'),
    ([], 'no caption of 2 among 2 images'),
    ([GOOD[0], {'image_id': 2, 'caption': ' '}],
     r'entry 2 of 2 \(image 2\) has an empty caption.*--missing-as-empty'),
    ([GOOD[0], {'image_id': 2, 'caption': None}],
     'entry 2 of 2 lacks an image_id or a caption that is text'),
    ([GOOD[0], {'image_id': 2, 'caption': ['a', 'cat']}], 'entry 2 of 2 lacks'),
    ([GOOD[0], {'id': 2, 'caption': 'a cat'}], 'entry 2 of 2 lacks'),
    ([{'image_id': [1], 'caption': 'a dog'}], 'entry 1 of 1 lacks'),
    (['a dog', 'a cat'], 'entry 1 of 2 lacks'),
])
def test_rubbish_is_refused(tmp_path, content, message):
    file = tmp_path / 'results.json'
    if isinstance(content, (list, dict)):
        content = json.dumps(content)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    annotations = read_annotations(write_annotations(tmp_path, {1: ['a dog'], 2: ['a cat']}))
    with pytest.raises(ValueError, match=f'results.json.*{message}'):
        read_results(file, annotations)


def test_missing_captions_are_misses_if_asked(tmp_path):
    file = tmp_path / 'results.json'
    file.write_text(json.dumps([GOOD[0], {'image_id': 2, 'caption': ''}]))
    annotations = write_annotations(tmp_path, {1: ['a dog'], 2: ['a cat'], 3: ['a cow'], 4: []})
    content = json.loads(annotations.read_text())
    unlisted = {'image_id': 5, 'caption': 'a caption of an image that is not listed'}
    content['annotations'].append(unlisted)
    annotations.write_text(json.dumps(content))
    results = read_results(file, read_annotations(annotations), missing_as_empty=True)
    assert results == as_results({1: 'a dog', 2: '', 3: ''})    # nobody described 4: not needed
    scored = score(results, References(annotations, cache_dir=None))
    assert scored['ROUGE-L'] == pytest.approx(1 / 3)


def test_missing_results_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.json not found'):
        read_results(tmp_path / 'nowhere.json', {'images': []})


def test_images_without_captions_cannot_be_scored(references, results, tmp_path):
    with pytest.raises(ValueError, match='1 of 8 images have no caption, such as 3'):
        score(results[1:], references)
    with pytest.raises(ValueError, match='no captions to score against'):
        References(write_annotations(tmp_path, {1: [' '], 2: []}), cache_dir=None)


# ---- Intervals and comparisons ----

def test_where_all_images_are_alike_intervals_have_no_width(tmp_path):
    """Any draw of them is the same set, so this says that sums over images give the scores."""
    captions = dict.fromkeys(range(6), ['a brown dog runs on wet sand', 'the dog is running'])
    references = References(write_annotations(tmp_path, captions), cache_dir=None)
    results = as_results(dict.fromkeys(range(6), 'a dog runs on sand'))
    scored = score(results, references, draws=10)
    assert scored['BLEU-1'] > 0.5
    for name, bounds in scored['intervals'].items():
        assert bounds == pytest.approx((scored[name], scored[name]), abs=1e-12), name


def test_intervals_are_of_the_scores_of_images_drawn_again(references, results):
    """Scores of drawn images, through sums, are those of the scorers on them written out."""
    scored = score(results, references, draws=40, seed=3)
    candidates = tokenize_python([result['caption'] for result in results])
    targets = list(references.tokens.values())
    random, drawn = np.random.default_rng(3), []
    for _ in range(40):
        rows = random.integers(len(results), size=len(results))
        bleu = BleuScorer()
        for row in rows:
            bleu += (candidates[row], targets[row])
        rouge = [Rouge().calc_score([candidates[row]], targets[row]) for row in rows]
        cider = np.array(CIDER_BY_HAND)[rows]
        drawn.append([*bleu.compute_score('closest')[0], np.mean(rouge), cider.mean()])
    bounds = np.quantile(drawn, (0.025, 0.975), axis=0).T
    expected = dict(zip(SCORES_BY_HAND, map(pytest.approx, bounds.tolist()), strict=True))
    assert {name: list(pair) for name, pair in scored['intervals'].items()} == expected


def test_intervals(references, results):
    scored = score(results, references, draws=500)
    assert scored['intervals'] == score(results, references, draws=500)['intervals']
    assert scored['intervals'] != score(results, references, draws=500, seed=1)['intervals']
    for name in SCORES_BY_HAND:
        low, high = scored['intervals'][name]
        assert low < scored[name] < high, name
    cider = np.array(CIDER_BY_HAND)
    spread = 2 * 1.96 * cider.std() / np.sqrt(len(cider))    # normal approximation, rough for eight
    assert np.diff(scored['intervals']['CIDEr'])[0] == pytest.approx(spread, rel=0.15)


def test_paired_test(references, results):
    same = paired_test(results, results, references, draws=200)
    assert list(same) == list(SCORES_BY_HAND)
    assert all(test == {'difference': 0, 'interval': (0, 0), 'p': 1} for test in same.values())

    worse = [{**result, 'caption': 'a person is near a tree'} for result in results]
    better = paired_test(worse, results, references, draws=200)
    reverse = paired_test(results, worse, references, draws=200)
    high, low = score(results, references), score(worse, references)
    for name, test in better.items():
        assert test['difference'] == pytest.approx(high[name] - low[name])
        assert test['interval'][0] > 0 and test['p'] == pytest.approx(2 / 201), name
        mirrored = tuple(-bound for bound in test['interval'][::-1])
        assert reverse[name]['interval'] == pytest.approx(mirrored)

    one_word = [{**results[0], 'caption': 'A brown dog runs on the sand.'}, *results[1:]]
    tests = paired_test(one_word, results, references, draws=200)
    assert all(test['p'] > 0.05 for test in tests.values())
    assert 'CIDEr' in format_tests(better) and 'not shown to differ' in format_tests(same)


def test_people_are_scored_by_the_first_caption_against_the_others(tmp_path):
    file = write_annotations(tmp_path, {1: ['a dog runs fast', 'a dog runs fast'],
                                        2: ['a cat', 'the cow stands'],
                                        3: ['only one caption']})
    references = References(file, leave_first_out=True, cache_dir=None)
    assert references.captions == {1: ['a dog runs fast'], 2: ['the cow stands']}
    human = score(first_captions(references), references)
    assert human['ROUGE-L'] == 0.5
    assert human == score(as_results({1: 'a dog runs fast', 2: 'a cat'}), references)


# ---- Table and command ----

def test_the_table_names_tokenizer_and_gaps(references, results):
    table = format_scores({'ours': score(results, references, draws=50),
                           'again': score(results, references)})
    assert 'PTB tokenizer in Python' in table and '8 images' in table
    assert 'METEOR needs Java' in table and 'SPICE needs' in table
    assert re.search(r'^BLEU-1 +84.4  \[.*\] +84.4$', table, re.MULTILINE)
    assert re.search(r'^METEOR +- +-$', table, re.MULTILINE)


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(files, 'CACHE', tmp_path / 'cache')

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['evaluate', *map(str, arguments)])
        evaluate.main()
    return run


def test_command_scores_a_results_file(run, capsys, tmp_path):
    run('--results', RESULTS, '--annotations', ANNOTATIONS, '--against', RESULTS, '--human',
        '--no-java', '--json', tmp_path / 'scores.json')
    printed, kept = capsys.readouterr().out, json.loads((tmp_path / 'scores.json').read_text())
    expected = dict.fromkeys(SCORES) | SCORES_BY_HAND
    assert {name: kept[name] for name in SCORES} == pytest.approx(expected, abs=1e-6)
    assert kept['intervals'].keys() == kept['against'].keys() == SCORES_BY_HAND.keys()
    assert kept['people']['CIDEr'] > 0 and kept['diversity']['captions'] == 8
    for text in ('people', 'not shown to differ', '8 of 8 captions are distinct',
                 f'compared with {RESULTS}:', 'METEOR needs Java'):
        assert text in printed


def test_command_scores_people_alone(run, capsys, tmp_path):
    run('--annotations', ANNOTATIONS, '--human', '--no-java', '--json', tmp_path / 'scores.json')
    printed, kept = capsys.readouterr().out, json.loads((tmp_path / 'scores.json').read_text())
    references = References(ANNOTATIONS, leave_first_out=True, cache_dir=None)
    human = json.loads(json.dumps(score(first_captions(references), references, draws=1000)))
    assert kept['CIDEr'] == human['CIDEr'] and kept['intervals'] == human['intervals']
    assert 'people' in printed and 'distinct' not in printed


def test_command_captions_a_split(run, capsys, dataset, small_weights, isolated_root, tmp_path):
    vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a', 'red', 'square'])
    encoder_sizes = {'embed_size': 4, 'backbone': 'resnet18', 'weights': small_weights,
                     'image_size': 64}
    decoder_sizes = {'embed_size': 4, 'hidden_size': 4, 'vocab_size': 6}
    encoder, decoder = model.EncoderCNN(**encoder_sizes), model.DecoderRNN(**decoder_sizes)
    state = model_state(encoder, decoder, vocab, encoder_sizes, decoder_sizes,
                        weights_hash(encoder.backbone))
    save_checkpoint(tmp_path / 'best.pt', state)
    (dataset / 'cocoapi/images/val2014/val_001.jpg').write_bytes(b'damaged')

    run(tmp_path / 'best.pt', '--cocoapi-loc', dataset, '--no-java',
        '--json', tmp_path / 'scores.json')
    written = json.loads((tmp_path / 'captions_val_beam1.json').read_text())
    assert [result['image_id'] for result in written] == [13, 15, 16]    # without the damaged 14
    assert json.loads((tmp_path / 'scores.json').read_text())['images'] == 3
    run(tmp_path / 'best.pt', '--cocoapi-loc', dataset, '--split', 'test', '--limit', 2,
        '--results-out', tmp_path / 'test.json')
    written = json.loads((tmp_path / 'test.json').read_text())
    assert [result['image_id'] for result in written] == [17, 18]
    assert 'withheld' in capsys.readouterr().out


@pytest.mark.parametrize('arguments', [
    (), ('best.pt', '--results', 'x'), ('best.pt', '--annotations', 'x'),
    ('--human', '--against', 'x'), ('--split', 'train')])
def test_command_refuses_what_makes_no_sense(run, capsys, arguments):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert 'usage:' in capsys.readouterr().err
