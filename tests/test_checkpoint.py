"""Checkpoints: all that is needed to caption, and what is said of one that does not fit."""

import pytest
import torch
from conftest import make_dataset
from training_helpers import edited_model, open_run, tiny_settings, train, val_paths

import model
from captioning import files
from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.checkpoint import read_checkpoint, save_checkpoint
from captioning.features import split_features


@pytest.fixture(scope='module')
def finished(tmp_path_factory, small_weights):
    """A finished run that these tests share: they leave it as it is."""
    root = tmp_path_factory.mktemp('finished')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, 'RUNS', root / 'runs')
        patch.setattr(files, 'CACHE', root / 'cache')
        data_folder = make_dataset(root / 'squares')
        settings = tiny_settings(data_folder, small_weights, epochs=6, learning_rate=0.01)
        return train(open_run(settings))


def test_a_checkpoint_is_all_that_is_needed_to_caption(finished, isolated_root):
    captioner = load_captioner(finished.folder / 'last.pt', 'cpu')
    data = CaptionData(finished.data.folder)
    paths = sorted(data.image_folder('val').iterdir())
    in_training = finished.model.captioner('cpu')
    expected = in_training.caption_features(finished.val.features[finished.val.rows])
    assert captioner.caption(paths) == expected and captioner.caption([]) == []
    assert [captioner.caption([path])[0] for path in paths] == expected
    from_disk, _, _ = split_features(captioner.encoder, data, 'val')
    assert captioner.caption_features(from_disk) == expected    # memory-mapped
    assert captioner.vocab.word2idx == finished.model.vocab.word2idx
    assert not captioner.decoder.training


@pytest.mark.parametrize(('damage', 'words'), [
    (lambda state: state['encoder'].update(backbone_hash='0' * 16),
     ['0000000000000000', 'restore']),
    (lambda state: state['decoder']['sizes'].update(hidden_size=30),
     ['lstm.weight_hh_l0', '[96, 24]', '[120, 30]']),
    (lambda state: state['decoder']['state'].pop('linear.bias'), ['linear.bias']),
    (lambda state: state['encoder']['sizes'].update(weights='gone.pt'), ['gone.pt']),
    (lambda state: state.pop('vocab'), ['not a checkpoint of this repository']),
])
def test_a_checkpoint_that_does_not_fit_says_what_differs(finished, tmp_path, damage, words):
    state = read_checkpoint(finished.folder / 'best.pt')
    damage(state)
    save_checkpoint(tmp_path / 'odd.pt', state)
    with pytest.raises(ValueError) as caught:
        load_captioner(tmp_path / 'odd.pt')
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_checkpoint_of_another_model_loads_with_the_classes_of_that_file(settings, tmp_path):
    one_layer = 'self.linear = AlignedLinear(hidden_size, vocab_size)'
    two_layers = ('self.linear = nn.Sequential(nn.Linear(hidden_size, 9), '
                  'nn.Linear(9, vocab_size))')
    edited = edited_model(tmp_path / 'model.py', (one_layer, two_layers))
    run = train(open_run(settings(epochs=1, model_file=str(edited))))
    expected = run.model.captioner('cpu').caption_features(run.val.features[run.val.rows])
    best, beside = run.folder / 'best.pt', run.folder / 'model.py'
    with pytest.raises(ValueError, match=r'linear.0.weight: \[9, 24\] there, nothing here.*'
                                         'model_file'):
        load_captioner(best)
    edited.unlink()
    captioner = load_captioner(best, 'cpu', model_file=beside)
    assert captioner.caption(val_paths(run)) == expected
    with pytest.raises(ValueError, match=r'model.py \(.*linear.weight: nothing there'):
        load_captioner(best, model_file=model.__file__)    # another file's classes
    with pytest.raises(FileNotFoundError, match='model_file'):
        load_captioner(best, model_file=tmp_path / 'gone.py')


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return (eval, (f'__import__("os").mkdir({str(tmp_path / "was-run")!r})',))

    torch.save({'encoder': Runs()}, tmp_path / 'strange.pt')
    with pytest.raises(ValueError, match='cannot be read safely|not a checkpoint'):
        load_captioner(tmp_path / 'strange.pt')
    assert not (tmp_path / 'was-run').exists()
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'strange.pt').read_bytes()[:50])
    with pytest.raises(ValueError, match='cut.pt'):
        load_captioner(tmp_path / 'cut.pt')
    with pytest.raises(FileNotFoundError, match='make run'):
        load_captioner(tmp_path / 'none.pt')
