"""Scores: equal to the reference's, rubbish refused, intervals and tests that say what they should.

tests/data/captions_eight.json and results_eight.json hold eight made-up images. SCORES_BY_HAND were computed from them
once with the reference implementation (pycocoevalcap 1.2, Java 17, which `make test` does without):

    coco = COCO('captions_eight.json')
    gts, res = coco.imgToAnns, {r['image_id']: [r] for r in json.load(open('results_eight.json'))}
    gts, res = PTBTokenizer().tokenize(gts), PTBTokenizer().tokenize(res)
    Bleu(4).compute_score(gts, res)[0], Rouge().compute_score(gts, res), Cider().compute_score(gts, res)

tests/slow/test_evaluate_java.py does this again, with METEOR.
"""

import json
import re
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

import model
from scripts import evaluate
from scripts.annotations import read_annotations
from scripts.checkpoint import model_state, save_checkpoint
from scripts.evaluate import SCORES, References, score
from scripts.features import weights_hash
from scripts.mistakes import format_words, judge_words
from vocabulary import Vocabulary

DATA = Path(__file__).parent / 'data'
ANNOTATIONS, RESULTS = DATA / 'captions_eight.json', DATA / 'results_eight.json'
SCORES_BY_HAND = {'BLEU-1': 0.8436155971894493, 'BLEU-2': 0.737486314463903, 'BLEU-3': 0.6142481893446167,
                  'BLEU-4': 0.5078169950522676, 'ROUGE-L': 0.6445549681273249, 'CIDEr': 1.347493819422465}
CIDER_BY_HAND = [1.558138334645135, 1.639440674506551, 1.89211667893106, 1.6141621749686854, 0.9313334703706924,
                 0.9948284083981428, 0.13556848746784358, 2.014362326091611]


@pytest.fixture
def references():
    return References(ANNOTATIONS, cache_dir=None)


@pytest.fixture
def results():
    return json.loads(RESULTS.read_text())


def write_annotations(folder, captions):
    """A COCO captions file of {image id: [caption, ...]}."""
    file = folder / 'captions.json'
    file.write_text(json.dumps({
        'images': [{'id': image_id, 'file_name': f'{image_id}.jpg'} for image_id in captions],
        'annotations': [{'image_id': image_id, 'caption': caption} for image_id, own in captions.items()
                        for caption in own]}))
    return file


def as_results(captions):
    return [{'image_id': image_id, 'caption': caption} for image_id, caption in captions.items()]


# ---- The numbers ----

def test_scores_equal_the_reference_by_hand(references, results):
    scores = score(results, references)
    for name, value in SCORES_BY_HAND.items():
        assert scores[name] == pytest.approx(value, abs=1e-6), name
    assert list(scores['cider_per_image'].values()) == pytest.approx(CIDER_BY_HAND, abs=1e-9)
    assert scores['METEOR'] is scores['SPICE'] is None
    assert scores['tokenizer'] == 'python' and 'Java' in scores['unavailable']['METEOR']


def test_order_of_results_and_other_images_do_not_matter(references, results):
    expected = score(results, references)
    Random(0).shuffle(results)
    assert score([*results, {'image_id': 'other', 'caption': 'a dog'}], references) == expected


def test_references_can_be_scored_again(references, results):
    """The counts kept in References are not used up: document frequencies would double, and CIDEr with them."""
    first = score(results, references)
    score([{**result, 'caption': 'a dog'} for result in results], references)
    assert score(results, references) == first


def test_a_subset_of_images(results):
    some = [result['image_id'] for result in results[:5]]
    scores = score(results, References(ANNOTATIONS, image_ids=some, cache_dir=None))
    assert list(scores['cider_per_image']) == some and scores['images'] == 5


def test_what_people_wrote_scores_highest(references):
    own = {image_id: captions[-1] for image_id, captions in references.captions.items()}
    scores = score(as_results(own), references)
    assert [scores[f'BLEU-{n}'] for n in (1, 2, 3, 4)] == pytest.approx([1] * 4)
    assert scores['ROUGE-L'] == pytest.approx(1)
    assert scores['CIDEr'] > SCORES_BY_HAND['CIDEr']


def test_empty_captions_score_nothing(references, results):
    scores = score([{**result, 'caption': ''} for result in results], references, draws=20)
    assert [scores[name] for name in SCORES_BY_HAND] == pytest.approx([0] * 6, abs=1e-9)


@pytest.mark.parametrize(('caption', 'tokens'), {    # right: what Java's tokenizer gave
    "A man's dogs' toys aren't here": "a man 's dogs toys are n't here",
    'A dog. A cat (asleep), too...': 'a dog a cat -lrb- asleep -rrb- too',
    'Mr. Smith on Main St. near Mt. Fuji': 'mr. smith on main st. near mt. fuji',
    '5 p.m. in the U.S. at 5 pm. in U.S.A.': '5 p.m. in the u.s. at 5 pm in u.s.a.',
    'wow!!! really?! yes!': 'wow !!! really ?! yes',
    'He cannot gimme it; black/white t-shirt, 10:30': 'he can not gim me it black/white t-shirt 10:30',
    '“Stop” — said ‘the’ sign –': 'stop said the sign',
    "Rock 'n' roll in the '90s": "rock 'n' roll in the '90s",
    'a <unk> dog - and -odd words- x=y': 'a <unk> dog and odd words x = y',
    ' ... . !': '',
}.items())
def test_tokens_follow_the_ptb_rules(caption, tokens):
    assert evaluate.tokenize_python([caption]) == [tokens]


def test_references_are_tokenised_once(tmp_path):
    first = References(ANNOTATIONS, cache_dir=tmp_path)
    kept, = tmp_path.iterdir()
    lines = json.loads(kept.read_text())
    kept.write_text(json.dumps(['a token of its own', *lines[1:]]))
    again = References(ANNOTATIONS, cache_dir=tmp_path)
    assert again.tokens[3][0] == 'a token of its own' and first.tokens[3][1:] == again.tokens[3][1:]
    kept.write_text('damaged')
    assert References(ANNOTATIONS, cache_dir=tmp_path).tokens == first.tokens
    References(ANNOTATIONS, leave_first_out=True, cache_dir=tmp_path)    # other captions: another file
    assert len(list(tmp_path.iterdir())) == 2


# ---- Rubbish ----

GOOD = [{'image_id': 1, 'caption': 'a dog'}, {'image_id': 2, 'caption': 'a cat'}]


@pytest.mark.parametrize(('content', 'message'), [
    ('a dog', 'is not JSON'),
    ('[' * 100_000, 'is not JSON'),
    (b'\xff\xfe\x00', 'is not JSON'),
    ({'annotations': GOOD}, 'holds a dict, not a list'),
    ([*GOOD, {'image_id': 3, 'caption': 'a cow'}], 'entry 3 of 3 is of image 3, which the annotations do not list'),
    ([*GOOD, {'image_id': '1', 'caption': 'a cow'}], "is of image '1', which"),
    ([*GOOD, GOOD[0]], 'entry 3 of 3 is a second caption of image 1'),
    (GOOD[:1], 'no caption of 1 among 2 images, such as 2.*--missing-as-empty'),
    ([], 'no caption of 2 among 2 images'),
    ([GOOD[0], {'image_id': 2, 'caption': ' '}], r'entry 2 of 2 \(image 2\) has an empty caption.*--missing-as-empty'),
    ([GOOD[0], {'image_id': 2, 'caption': None}], 'entry 2 of 2 lacks an image_id or a caption that is text'),
    ([GOOD[0], {'image_id': 2, 'caption': ['a', 'cat']}], 'entry 2 of 2 lacks'),
    ([GOOD[0], {'id': 2, 'caption': 'a cat'}], 'entry 2 of 2 lacks'),
    ([{'image_id': [1], 'caption': 'a dog'}], 'entry 1 of 1 lacks'),
    (['a dog', 'a cat'], 'entry 1 of 2 lacks'),
])
def test_rubbish_is_refused(tmp_path, content, message):
    file = tmp_path / 'results.json'
    file.write_bytes(content if isinstance(content, bytes) else
                     (content if isinstance(content, str) else json.dumps(content)).encode())
    annotations = read_annotations(write_annotations(tmp_path, {1: ['a dog'], 2: ['a cat']}))
    with pytest.raises(ValueError, match=f'results.json.*{message}'):
        evaluate.read_results(file, annotations)


def test_missing_captions_are_misses_if_asked(tmp_path):
    file = tmp_path / 'results.json'
    file.write_text(json.dumps([GOOD[0], {'image_id': 2, 'caption': ''}]))
    annotations = write_annotations(tmp_path, {1: ['a dog'], 2: ['a cat'], 3: ['a cow'], 4: []})
    content = json.loads(annotations.read_text())
    content['annotations'].append({'image_id': 5, 'caption': 'a caption of an image that is not listed'})
    annotations.write_text(json.dumps(content))
    found = evaluate.read_results(file, read_annotations(annotations), missing_as_empty=True)
    assert found == as_results({1: 'a dog', 2: '', 3: ''})    # nobody described 4: no caption of it is needed
    scores = score(found, References(annotations, cache_dir=None))
    assert scores['ROUGE-L'] == pytest.approx(1 / 3)


def test_missing_results_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.json not found'):
        evaluate.read_results(tmp_path / 'nowhere.json', {'images': []})


def test_images_without_captions_cannot_be_scored(references, results, tmp_path):
    with pytest.raises(ValueError, match='1 of 8 images have no caption, such as 3'):
        score(results[1:], references)
    with pytest.raises(ValueError, match='no captions to score against'):
        References(write_annotations(tmp_path, {1: [' '], 2: []}), cache_dir=None)


# ---- Intervals and comparisons ----

def test_resampled_scores_of_everything_are_the_scores(references, results):
    values, statistics, _ = evaluate._measure(results, references)
    again = evaluate._corpus_scores({name: rows.sum(0, keepdims=True) for name, rows in statistics.items()}, 8)
    assert {name: value[0] for name, value in again.items()} == pytest.approx(values, abs=1e-12)


def test_resampled_scores_are_the_scores_of_the_resampled(results):
    """BLEU of images drawn with repetition, through sums, is the scorer's on those images written out."""
    pick = [0, 0, 3, 5, 5, 5, 6, 1]
    references = References(ANNOTATIONS, cache_dir=None)
    _, statistics, _ = evaluate._measure(results, references)
    sums = {'BLEU': statistics['BLEU'][pick].sum(0, keepdims=True)}
    scorer = evaluate.BleuScorer()
    tokens = list(references.tokens.values())
    for row in pick:
        scorer += (evaluate.tokenize_python([results[row]['caption']])[0], tokens[row])
    drawn = evaluate._corpus_scores(sums, 8)
    assert [drawn[f'BLEU-{n}'][0] for n in (1, 2, 3, 4)] == pytest.approx(scorer.compute_score('closest')[0])


def test_intervals(references, results):
    scores = score(results, references, draws=500)
    assert scores['intervals'] == score(results, references, draws=500)['intervals']
    assert scores['intervals'] != score(results, references, draws=500, seed=1)['intervals']
    for name in SCORES_BY_HAND:
        low, high = scores['intervals'][name]
        assert low < scores[name] < high, name
    cider = np.array(CIDER_BY_HAND)
    spread = 2 * 1.96 * cider.std() / np.sqrt(len(cider))    # normal approximation, rough for eight images
    assert np.diff(scores['intervals']['CIDEr'])[0] == pytest.approx(spread, rel=0.15)


def test_paired_test(references, results):
    same = evaluate.paired_test(results, results, references, draws=200)
    assert list(same) == list(SCORES_BY_HAND)
    assert all(test == {'difference': 0, 'interval': (0, 0), 'p': 1} for test in same.values())

    worse = [{**result, 'caption': 'a person is near a tree'} for result in results]
    better = evaluate.paired_test(worse, results, references, draws=200)
    reverse = evaluate.paired_test(results, worse, references, draws=200)
    for name, test in better.items():
        assert test['difference'] == pytest.approx(score(results, references)[name] - score(worse, references)[name])
        assert test['interval'][0] > 0 and test['p'] == pytest.approx(2 / 201), name
        assert reverse[name]['interval'] == pytest.approx(tuple(-bound for bound in test['interval'][::-1]))

    one_word = [{**results[0], 'caption': 'A brown dog runs on the sand.'}, *results[1:]]
    assert all(test['p'] > 0.05 for test in evaluate.paired_test(one_word, results, references, draws=200).values())
    assert 'CIDEr' in evaluate.format_tests(better) and 'not shown to differ' in evaluate.format_tests(same)


# ---- What else is said about captions ----

def test_human_line(tmp_path):
    file = write_annotations(tmp_path, {1: ['a dog runs fast', 'a dog runs fast'], 2: ['a cat', 'the cow stands'],
                                        3: ['only one caption']})
    references = References(file, leave_first_out=True, cache_dir=None)
    assert references.captions == {1: ['a dog runs fast'], 2: ['the cow stands']}
    human = evaluate.human_line(file, cache_dir=None)
    assert human['ROUGE-L'] == 0.5
    assert human == score(as_results({1: 'a dog runs fast', 2: 'a cat'}), references)


def test_diversity():
    found = evaluate.diversity(as_results({1: 'A dog runs.', 2: 'a dog runs', 3: "a man's hat", 4: ''}),
                               train_captions=['A dog, runs!', 'a man'])
    assert found == {'captions': 4, 'distinct': 3, 'words': 5, 'length': 2.25, 'broken': 0, 'in_train': 0.5}
    broken = as_results({1: 'a dog with a', 2: 'A man and his.', 3: 'a man looks on', 4: 'two dogs'})
    assert evaluate.diversity(broken)['broken'] == 0.5
    assert '50.0% break off' in evaluate.format_notes(evaluate.diversity(broken))
    assert evaluate.diversity(as_results({1: 'a dog'}))['in_train'] is None


def test_words_are_judged_by_kind(tmp_path):
    file = write_annotations(tmp_path, {
        1: ['Two brown dogs running on grass.', 'a dog runs on the grass', 'a dog chases a ball'],
        2: ['a man in a red shirt', 'a guy wearing a red jacket'], 3: ['nothing here', 'a king on a swing']})
    references = References(file, cache_dir=None)
    said = as_results({1: 'a white dog running on sand', 2: 'a man in a red shirt', 3: 'a king', 4: 'a cat'})
    judged = judge_words(said, references)    # of the fourth image nothing is known
    assert judged['who'] == {'said': 2, 'right': 1.0, 'expected': 1, 'found': 1.0}      # dogs are dogs
    assert judged['doing'] == {'said': 1, 'right': 1.0, 'expected': 0, 'found': 0.0}    # a king does nothing
    assert judged['colour'] == {'said': 2, 'right': 0.5, 'expected': 1, 'found': 1.0}
    assert judged['place'] == {'said': 1, 'right': 0.0, 'expected': 1, 'found': 0.0}
    assert judged['clothing']['right'] == 1.0 and judged['count'] == {'said': 0, 'right': 0, 'expected': 0, 'found': 0}
    table = format_words({'captions': judged, 'people': judge_words(evaluate.first_captions(references), references)})
    assert 'captions' in table and 'people' in table and re.search(r'colour +2 +50.0% +100.0% +2 +100.0%', table)


def test_ranked_examples():
    ranked = evaluate.ranked_examples({'cider_per_image': {i: (i * 7 % 10) / 10 for i in range(10)}}, n=3)
    assert ranked == {'best': [7, 4, 1], 'median': [8, 5, 2], 'worst': [6, 3, 0]}


SCENE = {'place': 'beach', 'held_out': False, 'objects': [
    {'kind': 'dog', 'nouns': ['dog', 'dogs', 'puppy', 'puppies'], 'colour': 'brown', 'count': 2, 'relation': 'next to'},
    {'kind': 'tree', 'nouns': ['tree', 'trees'], 'colour': None, 'count': 1, 'relation': None}]}
WORDS = {'place': {'beach': ['beach', 'sand']}, 'relation': {'next to': ['next to', 'near']},
         'count': {'1': ['a', 'an', 'one'], '2': ['two', 'couple']}}


def judge(caption, **main):
    scene = {**SCENE, 'objects': [SCENE['objects'][0] | main, SCENE['objects'][1]]}
    annotations = {'images': [{'id': 1, 'scene': scene}], 'info': {'words': WORDS}}
    shares = evaluate.judge_scenes(as_results({1: caption}), annotations)['seen']
    return {what for what, share in shares.items() if share}


@pytest.mark.parametrize(('caption', 'right'), {
    'Two brown dogs near a big tree on the beach.': 'thing count several colour place relation',
    'a couple of small brown puppies on the sand': 'thing count several colour place',
    'brown dogs next to trees': 'thing colour relation',
    'a brown dog': 'thing colour',
    'a picture of two cats near a tree': 'relation',
    'dogs by a tree near two cats': 'thing',
    'under a sun two dogs': 'thing count several',
    'two cats that sit near dogs': 'thing',
}.items())
def test_judging_scenes(caption, right):
    assert judge(caption) == set(right.split())


def test_judging_one_thing():
    assert 'count' in judge('a dog', count=1) and 'count' in judge('there is one brown puppy', count=1)
    assert 'count' not in judge('a picture of dogs', count=1) and 'several' not in judge('a dog', count=1)


def test_drawn_captions_name_their_main_thing():
    from scripts import scenes
    drawn = [scenes.make_scene(0, 'test', index) for index in range(200)]
    annotations = {'images': [{'id': i, 'scene': scene} for i, scene in enumerate(drawn)],
                   'info': {'words': json.loads(json.dumps(scenes.WORDS))}}    # JSON's keys are strings
    said = [{'image_id': i, 'caption': caption} for i, scene in enumerate(drawn)
            for caption in scenes.make_captions(scene, Random(i))]
    shares = evaluate.judge_scenes(said, annotations)
    assert set(shares) == {'seen', 'held-out'}
    for own in shares.values():
        assert own['thing'] == own['count'] == own['several'] == 1
        assert min(own['colour'], own['place'], own['relation']) > 0.6    # some captions leave one out
    mixed_up = [{**result, 'image_id': (result['image_id'] + 1) % 200} for result in said]
    assert evaluate.judge_scenes(mixed_up, annotations)['seen']['thing'] < 0.2


# ---- Table and command ----

def test_the_table_names_tokenizer_and_gaps(references, results):
    table = evaluate.format_scores({'ours': score(results, references, draws=50), 'again': score(results, references)})
    assert 'PTB tokenizer in Python' in table and '8 images' in table
    assert 'METEOR needs Java' in table and 'SPICE needs' in table
    assert any(line.split()[:2] == ['BLEU-1', '84.4'] and '[' in line for line in table.splitlines())
    assert [line.split()[1:] for line in table.splitlines() if line.startswith('METEOR  ')] == [['-', '-']]


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.References.__init__, '__defaults__', (None, False, False, tmp_path / 'cache'))

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['evaluate', *map(str, arguments)])
        evaluate.main()
    return run


def test_command_scores_a_results_file(run, capsys, tmp_path):
    run('--results', RESULTS, '--annotations', ANNOTATIONS, '--against', RESULTS, '--human', '--no-java',
        '--json', tmp_path / 'scores.json')
    shown, kept = capsys.readouterr().out, json.loads((tmp_path / 'scores.json').read_text())
    expected = dict.fromkeys(SCORES) | SCORES_BY_HAND
    assert {name: kept[name] for name in SCORES} == pytest.approx(expected, abs=1e-6)
    assert kept['intervals'].keys() == kept['against'].keys() == SCORES_BY_HAND.keys()
    assert kept['people']['CIDEr'] > 0 and kept['diversity']['captions'] == 8
    for text in ('people', 'not shown to differ', '8 of 8 captions are distinct', 'METEOR needs Java'):
        assert text in shown


def test_command_captions_a_split(run, capsys, dataset, small_weights, isolated_root, tmp_path):
    vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a', 'red', 'square'])
    encoder_sizes = {'embed_size': 4, 'backbone': 'resnet18', 'weights': small_weights}
    decoder_sizes = {'embed_size': 4, 'hidden_size': 4, 'vocab_size': 6}
    encoder, decoder = model.EncoderCNN(**encoder_sizes), model.DecoderRNN(**decoder_sizes)
    save_checkpoint(tmp_path / 'best.pt', model_state(encoder, decoder, vocab, encoder_sizes, decoder_sizes,
                                                      weights_hash(encoder.backbone)))
    (dataset / 'cocoapi/images/val2014/val_001.jpg').write_bytes(b'damaged')

    run(tmp_path / 'best.pt', '--cocoapi-loc', dataset, '--no-java', '--json', tmp_path / 'scores.json')
    written = json.loads((tmp_path / 'captions_val_beam1.json').read_text())
    assert [result['image_id'] for result in written] == [13, 15, 16]    # without the damaged 14
    assert json.loads((tmp_path / 'scores.json').read_text())['images'] == 3
    run(tmp_path / 'best.pt', '--cocoapi-loc', dataset, '--split', 'test', '--limit', 2,
        '--results-out', tmp_path / 'test.json')
    assert [result['image_id'] for result in json.loads((tmp_path / 'test.json').read_text())] == [17, 18]
    assert 'withheld' in capsys.readouterr().out


@pytest.mark.parametrize('arguments', [(), ('best.pt', '--results', 'x'), ('best.pt', '--annotations', 'x'),
                                       ('--human', '--against', 'x'), ('--split', 'train')])
def test_command_refuses_what_makes_no_sense(run, capsys, arguments):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert 'usage:' in capsys.readouterr().err
