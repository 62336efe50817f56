"""The experiments: batches that are listed, tables that have all their lines, a model file."""

import itertools
import math

import numpy as np
import pytest
import torch
from test_decoding import ids_of, log_prob_of, set_end_bias
from test_extended_vocabulary import LIKE, make_vocab
from test_model import V, make_features, one_by_one
from torch.nn.functional import scaled_dot_product_attention
from training_helpers import open_run, train, val_paths

import model
from captioning.attention import show_attention
from captioning.batch_targets import TargetGroup
from captioning.benchmark.made_up import made_up_captions
from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.constrained_search import constrained_search
from captioning.decoding import attention_weights, beam_search, beams, greedy
from captioning.extended_vocabulary import extended
from captioning.photos import load_image
from captioning.scoring import References, score
from captioning.scoring.split_captions import seen_split
from captioning.training.phase import word_scores
from experiments import best_of_many, transformer
from experiments.batching import ListedBatches, one_length, sorted_pools
from experiments.ensemble import Ensemble, load, together
from experiments.ensemble import table as ensemble_table
from experiments.model_variants import model_variants, print_tables
from experiments.people_named import group_of_photo
from experiments.people_named import table as people_table
from experiments.precision import precision


@pytest.mark.parametrize('arrange', [one_length, sorted_pools])
def test_arrangements_serve_each_caption_once(arrange):
    captions = made_up_captions(400, 50, 30, features=6)
    sampler = ListedBatches(arrange, captions, 16, seed=0)
    served = [list(batch) for batch in sampler]
    assert sorted(itertools.chain(*served)) == list(range(400))
    assert max(map(len, served)) == 16
    assert sampler.bounds(sampler.batches - 1)[1] == sampler.bounds(sampler.batches)[0] == 400
    spread = [np.ptp(captions.lengths[batch]) for batch in served]
    if arrange is one_length:
        assert max(spread) == 0
    else:
        assert np.mean(spread) < np.ptp(captions.lengths) / 3
    sampler.set_epoch(1)
    assert [list(batch) for batch in sampler] != served
    sampler.set_epoch(0, 3)
    assert [list(batch) for batch in sampler] == served[3:]


def test_the_table_of_models_has_a_line_for_each(dataset, isolated_root, small_weights, capsys):
    images = ('every', 'attention')
    tables = model_variants(CaptionData(dataset), epochs=1, beam_sizes=(1, 2), images=images,
                            backbone='resnet18', image_size=64, weights=small_weights,
                            vocab_threshold=1, embed_size=8, hidden_size=8)
    print_tables(tables)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for name in (image + tied for image in images for tied in ('', ', tied')):
        rows = [line for line in lines if line.startswith(name + '  ')]
        assert len(rows) == 4 and rows[1].count('[') == rows[2].count('[') == 2, rows


def test_precision_compares_with_float32(dataset, isolated_root, monkeypatch):
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():    # also where it is slow
        monkeypatch.setattr('captioning.captioner.fast_dtype', lambda device: torch.bfloat16)
    _, first, *others = precision(CaptionData(dataset), images=5, beam_sizes=(1,))
    assert first[:3] == ('1', 'float32, cpu', '0.0%')
    assert [other[:2] for other in others] == [
        ('1', 'bfloat16, cpu')] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert all(0 <= float(other[2].rstrip('%')) <= 100 for other in others)


# ---- The Transformer ----

SWAPPED = [0, 2, 1, 3, 4, 5, 6, 7]    # the first two words after the start

each_image = pytest.mark.parametrize('image', ['attention', 'every'])


def transformer_and_features(image, end_bias=0, **options):
    torch.manual_seed(1)
    decoder = transformer.DecoderRNN(20, 24, V, image=image, **options).eval()
    set_end_bias(decoder, end_bias)
    return decoder, make_features({'image': image}, size=20)


@each_image
@pytest.mark.parametrize('layers', [1, 3])
def test_steps_of_the_transformer_give_the_scores_of_forward(image, layers):
    decoder, features = transformer_and_features(image, num_layers=layers)
    captions = torch.randint(V, (9, 8))
    scores, state = decoder(features, captions), decoder.init_state(features)
    assert scores.shape == (9, 8, V) and scores.is_contiguous()
    for t in range(7):
        stepped, state = decoder.step(captions[:, t], state)
        assert torch.allclose(stepped, scores[:, t + 1], atol=1e-5)
        assert all(len(part) == 9 for part in state)
    scored = torch.tensor([3, 0, 17, 71])
    expected = scores.flatten(0, 1)[scored]
    assert torch.allclose(decoder(features, captions, scored), expected, atol=1e-5)
    assert torch.allclose(decoder(features, captions[:, :1]), scores[:, :1], atol=1e-5)


@each_image
def test_the_transformer_reads_an_image_once_for_all_its_captions(image):
    decoder, features = transformer_and_features(image)
    inputs = torch.tensor([0, 0, 0, 4, 4, 8])
    lengths = torch.tensor([3, 8, 5, 2, 6, 4])
    captions, position = torch.randint(3, V, (6, 8)), torch.arange(8)
    captions[position >= lengths[:, None] - 1] = decoder.end_id    # the end, then padding
    scored = ((position > 0) & (position < lengths[:, None])).flatten().nonzero().squeeze(1)
    expected = decoder(features[inputs], captions).flatten(0, 1)[scored]
    assert torch.allclose(decoder(features, captions, scored, inputs), expected, atol=1e-5)


class Inputs(model.DecoderRNN):
    def forward(self, features, inputs):
        return super().forward(features, inputs)


class InputsScored(model.DecoderRNN):
    def forward(self, features, inputs, scored=None):
        return super().forward(features, inputs, scored)


class Mask(model.DecoderRNN):
    def forward(self, features, captions, mask=None, scored=None):
        assert mask is None
        return super().forward(features, captions, scored)


@pytest.mark.parametrize('kind', [Inputs, InputsScored, Mask])
def test_the_arguments_of_a_decoder_may_be_called_and_ordered_otherwise(kind):
    decoder, features = kind(20, 24, V).eval(), make_features({'image': 'every'}, size=20)
    group = TargetGroup(torch.tensor([0, 0, 4]), torch.randint(3, V, (3, 5)),
                        torch.tensor([1, 7, 12]), None)
    expected = decoder(features[group.inputs], group.captions).flatten(0, 1)[group.scored]
    assert torch.allclose(word_scores(decoder, features, group), expected, atol=1e-5)


@pytest.mark.parametrize('in_bfloat16', [False, True])
def test_in_bfloat16_on_a_cpu_the_output_layer_meets_few_numbers_of_rows(in_bfloat16):
    torch.manual_seed(0)
    decoder, features = model.DecoderRNN(20, 24, V).eval(), torch.randn(3, 20)
    captions, rows = torch.randint(3, V, (3, 25)), []
    decoder.linear.register_forward_pre_hook(lambda layer, inputs: rows.append(len(inputs[0])))
    for words in (30, 45, 64):
        scored = torch.arange(words)
        group = TargetGroup(torch.arange(3), captions, scored, captions.flatten()[scored])
        with torch.autocast('cpu', torch.bfloat16, enabled=in_bfloat16):
            scores = word_scores(decoder, features, group)
            expected = decoder(features, captions).flatten(0, 1)[:words]
        rows.pop()
        assert torch.allclose(scores, expected, atol=0.02 if in_bfloat16 else 1e-6)
    assert rows == ([32, 64, 64] if in_bfloat16 else [30, 45, 64])


@each_image
def test_the_transformer_sees_the_image_the_earlier_words_and_their_order(image):
    decoder, features = transformer_and_features(image)
    captions = torch.randint(3, V, (9, 8))
    scores, of_others = decoder(features, captions), decoder(features.roll(1, 0), captions)
    assert ((scores - of_others).abs().amax(dim=(0, 2)) > 1e-6).all()
    changed = captions.clone()
    changed[:, 5:7] = (changed[:, 5:7] + 1) % V    # a later word, or padding
    after = decoder(features, changed)
    assert torch.allclose(scores[:, :6], after[:, :6], atol=1e-6)
    assert not torch.isclose(scores[:, 6:], after[:, 6:]).all(dim=2).any()
    # A single layer knows the order by the positions alone.
    decoder, _ = transformer_and_features(image, num_layers=1)
    scores, swapped = decoder(features, captions), decoder(features, captions[:, SWAPPED])
    assert not torch.isclose(scores[:, 4:], swapped[:, 4:]).all(dim=2).any()


@each_image
@pytest.mark.parametrize('end_bias', [-100, 2])
def test_the_transformer_writes_by_every_search(image, end_bias):
    decoder, features = transformer_and_features(image, end_bias)
    best = ids_of(greedy(decoder, features))
    assert best == ids_of(beam_search(decoder, features, beam_size=1))
    assert best == [decoder.sample(one) for one in one_by_one(features)]
    for one, captions in zip(features, beams(decoder, features, beam_size=4), strict=True):
        for caption in captions:
            expected = log_prob_of(decoder, one, caption.ids)
            assert caption.log_probs == pytest.approx(expected, abs=1e-4)
    required = [[{7}, {8, 9}], [], [{10}]] * 3
    captions = constrained_search(decoder, features, required, beam_size=3)
    for one, words, caption in zip(features, required, captions, strict=True):
        assert all(word & set(caption.ids) for word in words)
        expected = log_prob_of(decoder, one, caption.ids)
        assert caption.log_probs == pytest.approx(expected, abs=1e-4)


def test_the_transformer_takes_new_words():
    decoder, features = transformer_and_features('attention', end_bias=2)
    longer, _, new = extended(decoder, make_vocab(), LIKE)
    required = [[{new[0]}]] * 9
    captions = constrained_search(longer, features, required, forbidden=[2], only_required=new)
    assert all(new[0] in caption.ids for caption in captions)
    assert ids_of(greedy(longer, features, forbidden=new)) == ids_of(greedy(decoder, features))


def test_the_transformer_shows_a_look_for_each_word():
    decoder, features = transformer_and_features('attention')
    weights = attention_weights(decoder, features[:1], [0, 5, 6, 7, 1])
    assert weights.shape == (4, 5) and torch.allclose(weights.sum(dim=1), torch.ones(4))
    # Of a single head, what is seen is the mean of the places by these weights.
    hidden, at = torch.randn(27, 24), transformer.Positions((9, 3))
    for heads in (1, 8):
        look = transformer.ImageAttention(20, 24, heads)
        places = look.keys_and_values(features)
        seen, weights = look(hidden, at, places)
        expected = scaled_dot_product_attention(look.queries(hidden, at), *places.unbind(dim=1))
        assert torch.allclose(seen, look.joined(expected, at), atol=1e-5)
        if heads == 1:
            mean = (weights @ places[:, 1, 0]).flatten(0, 1)
            assert torch.allclose(seen, look.out(mean), atol=1e-5)


@pytest.mark.parametrize(('options', 'words'), [
    ({'image': 'first'}, ["image='first'", "'attention'"]),
    ({'image': 'every', 'heads': 7}, ['hidden_size=24', '7 heads'])])
def test_wrong_arguments_of_the_transformer_are_named(options, words):
    with pytest.raises(ValueError) as caught:
        transformer_and_features(**options)
    assert all(word in str(caught.value) for word in words)


def test_the_transformer_is_trained_rewarded_and_loaded_like_any_model_file(settings):
    run = train(open_run(settings(
        model_file=transformer.__file__, epochs=9, patience=9, learning_rate=0.005, dropout=0.1,
        heads=4, reward_epochs=1, reward_batch_size=6)))
    assert run.settings.image == 'attention' and run.settings.num_layers == 2
    assert [line['phase'] for line in run.log] == ['features'] * 9 + ['reward']
    first, *_, last = [line['train_loss'] for line in run.log[:9]]
    assert last < 0.5 * first
    captioner = load_captioner(run.folder / 'last.pt', 'cpu', run.folder / 'model.py')
    paths = val_paths(run)
    expected = run.model.captioner('cpu').caption_features(run.val.features, beam_size=3)
    assert captioner.caption(paths, beam_size=3) == expected and any(expected)
    caption, = captioner.decode(captioner.features(paths[:1]))
    figure = show_attention(captioner, load_image(paths[0]))
    shown = [axes.get_title().split()[0] for axes in figure.axes if axes.get_title()]
    assert shown == [captioner.vocab.idx2word[word] for word in caption.ids[1:]]


# ---- Captioners that write as one ----

def test_an_ensemble_writes_by_the_mean_of_the_probabilities():
    first, features = transformer_and_features('attention', end_bias=1)
    second = model.DecoderRNN(16, 24, V, image='attention').eval()
    set_end_bias(second, 1)
    both = Ensemble([first, second], [20, 16])
    others = make_features({'image': 'attention'}, size=16)
    beside = torch.cat([features, others], dim=-1)

    def mean_of(number, ids):
        pairs = [log_prob_of(decoder, part[number], ids)
                 for decoder, part in ((first, features), (second, others))]
        return torch.tensor(pairs).logsumexp(dim=0) - math.log(2)

    for number, captions in enumerate(beams(both, beside, beam_size=3)):
        assert len(captions) == 3
        for caption in captions:
            expected = mean_of(number, caption.ids)
            assert torch.allclose(torch.tensor(caption.log_probs), expected, atol=1e-4)
    alone = Ensemble([first, first], [20, 20])
    twice = torch.cat([features, features], dim=-1)
    assert ids_of(greedy(alone, twice)) == ids_of(greedy(first, features))


def test_the_table_of_an_ensemble_has_each_captioner_and_all_together(settings):
    runs = [train(open_run(settings(name=name, seed=seed, epochs=1)))
            for name, seed in (('one', 0), ('other', 1))]
    captioners = [load(run.folder / 'last.pt') for run in runs]
    data = CaptionData(runs[0].settings.cocoapi_loc)
    header, *rows = ensemble_table(captioners, ['one', 'other'], data, beam_sizes=(1, 2))
    assert header == ('Captioner', 'Beam', 'BLEU-4', 'CIDEr')
    names = ['one', 'other', 'together']
    assert [row[:2] for row in rows] == [(name, size) for size in (1, 2) for name in names]
    paths = val_paths(runs[0])
    alone = captioners[0].caption(paths, beam_size=2)
    assert together([captioners[0]] * 2).caption(paths, beam_size=2) == alone
    captioners[1].vocab = runs[0].model.vocab.from_words(list(runs[0].model.vocab.word2idx)[:-1])
    with pytest.raises(ValueError, match='one encoder and one vocabulary'):
        together(captioners)


# ---- The best of many ----

def test_the_best_of_many_captions_is_the_one_that_the_references_prefer(settings, monkeypatch):
    run = train(open_run(settings(epochs=1)))
    data = CaptionData(run.settings.cocoapi_loc)
    captioner = load(run.folder / 'last.pt')
    written = [['a man', 'a dog'], ['a', 'a man with a bus']]
    likely = np.array([[-1.0, -2.0], [-3.0, -2.0]])
    values = np.array([[0.2, 0.6], [1.0, 0.4]])
    monkeypatch.setattr(captioner, 'support', lambda seen, texts, rows: [[0, 2], [0, 0]])
    monkeypatch.setattr(best_of_many, 'drawn', lambda *_: (np.array(written), likely))
    monkeypatch.setattr(best_of_many, 'ciders', lambda texts, references: values)
    header, one, two = best_of_many.table(captioner, data, counts=(1, 2), temperature=1)
    assert header[1:] == ('A drawn one', 'The likeliest', 'Chosen with the consensus', 'The best')
    assert one == (1, '60.0', '60.0', '60.0', '60.0')
    assert two == (2, '55.0', '30.0', '50.0', '80.0')


def test_captions_are_drawn_and_scored_image_by_image(settings):
    run = train(open_run(settings(epochs=1)))
    captioner = load(run.folder / 'last.pt')
    data = CaptionData(run.settings.cocoapi_loc)
    seen, rows, images = seen_split(captioner, data, 'val')
    texts, likely = best_of_many.drawn(captioner, seen, rows, count=3, temperature=0.8)
    assert texts.shape == likely.shape == (len(rows), 3) and (likely < 0).all()
    references = References(data.annotation_file('val'), [images[row]['id'] for row in rows])
    people = [references.captions[image_id][0] for image_id in references.image_ids]
    values = best_of_many.ciders(np.stack([texts[:, 0], people], axis=1), references)
    results = [{'image_id': image_id, 'caption': text}
               for image_id, text in zip(references.image_ids, people, strict=True)]
    of_people = score(results, references)['cider_per_image']
    assert list(values[:, 1]) == list(of_people.values())


# ---- People, named ----

def test_people_are_judged_by_the_group_that_references_agree_on():
    agreed = ['a man runs', 'a guy runs', 'men run', 'a person runs', 'a woman runs']
    split = ['a man runs', 'a man runs', 'a man and a woman run', 'a woman runs', 'two']
    assert [group_of_photo(each) for each in (agreed, split, ['a dog'] * 5)] == ['man', None, None]
    captions = ['two men run', 'a woman and a man run', 'a girl runs', 'a player runs', 'a dog']
    header, man, *others = people_table(captions, [agreed] * 5, {'player'})
    assert dict(zip(header, man, strict=True)) == {
        'References say': 'man', 'photos': 5, 'said: man': 2, 'said: woman': 0, 'said: boy': 0,
        'said: girl': 1, 'said: other people': 1, 'said: nobody': 1, 'right': '40%'}
    assert all(row[1:] == (0, 0, 0, 0, 0, 0, 0, '') for row in others)
