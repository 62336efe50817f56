"""One zip of a run to hand in or to share: notebooks as HTML, modules, checkpoint, scores, and how to caption with it.

    python -m scripts.package runs/NAME/best.pt --output NAME.zip

Unpacked anywhere it captions photos by itself; of the packages in its requirements.txt nothing is in it.
"""

import argparse
import json
import os
import tempfile
import zipfile
from pathlib import Path

from tqdm import tqdm

from data_loader import ROOT
from scripts import run_main, write_aside
from scripts.checkpoint import export, latest_checkpoint, read_checkpoint, weights_file

README = '''# {name}: an image captioner

    python3 -m venv .venv
    .venv/bin/pip install -r requirements.txt
    .venv/bin/python -m scripts.sample --checkpoint {name}.pt --image photo.jpg

`model.py` is the model as it was trained; `results/` has its settings, log, scores and captions{notebooks}.
The encoder's weights: {weights}.

{scores}
'''
RESULTS = ('settings.json', 'log.jsonl', 'scores.json', 'curves.png', 'samples.png', 'captions_test.jpg',
           'attention.png', 'captions_val.json', 'captions_test.json')


def package(checkpoint, output):
    """Write the zip `output` of the run that `checkpoint`, such as runs/NAME/best.pt, belongs to -> list of names."""
    checkpoint, output = Path(checkpoint), Path(output)
    state, run = read_checkpoint(checkpoint), checkpoint.parent
    name = run.name if checkpoint.name in ('best.pt', 'last.pt') else checkpoint.stem
    weights = state['encoder']['sizes']['weights']
    files = {path.relative_to(ROOT).as_posix(): path for path in (
        *(ROOT / file for file in ('vocabulary.py', 'data_loader.py', 'requirements.txt', 'LICENSE')),
        *sorted((ROOT / 'scripts').glob('*.py')))}
    if found := weights_file(weights):
        weights = f'models/{found.name}'
        files[weights] = found
    files |= {f'results/{file}': run / file for file in RESULTS if (run / file).is_file()}
    files |= {f'notebooks/{file.name}': file for file in sorted((run / 'notebooks').glob('*.html'))}
    scores = [f'{key}: {100 * value:.1f}' for key, value in json.loads((run / 'scores.json').read_text()).items()
              if isinstance(value, float)] if (run / 'scores.json').is_file() else []
    executed = any(file.startswith('notebooks/') for file in files)
    told = README.format(name=name, weights=weights, notebooks='; `notebooks/` shows how it was trained' * executed,
                         scores=f'Validation, x100: {", ".join(scores)}.' if scores else '')
    with tempfile.TemporaryDirectory() as folder, write_aside(output) as aside:
        export(checkpoint, Path(folder) / f'{name}.pt', weights)
        files |= {f'{name}.pt': Path(folder) / f'{name}.pt', 'model.py': Path(folder) / 'model.py'}
        with zipfile.ZipFile(aside, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f'{name}/README.md', told)
            for inside, path in tqdm(files.items(), unit=' files', delay=2, disable=None):
                archive.write(path, f'{name}/{inside}')
    return list(files)


def main():
    parser = argparse.ArgumentParser(description='Write one zip of a run that captions photos wherever it is unpacked.')
    parser.add_argument('checkpoint', nargs='?', help='such as runs/NAME/best.pt (default: of the run opened last)')
    parser.add_argument('--output', help='the zip to write (default: NAME.zip)')
    args = parser.parse_args()
    checkpoint = Path(args.checkpoint or latest_checkpoint())
    output = args.output or f'{checkpoint.parent.name}.zip'
    names = package(checkpoint, output)
    if not any(name.startswith('notebooks/') for name in names):
        print(f'without notebooks: {os.path.relpath(checkpoint.parent)}/notebooks has none; `make run` executes them')
    print(f'{output}: {len(names) + 1} files, {os.path.getsize(output) / 1e6:.1f} MB')


if __name__ == '__main__':
    run_main(main)
