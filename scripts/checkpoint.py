"""Write a checkpoint in half the size, to keep or to give away, or as ONNX.

    python -m scripts.checkpoint runs/NAME/best.pt --output mine/NAME.pt
    python -m scripts.checkpoint runs/NAME/best.pt --onnx mine/NAME     # runs without PyTorch

Loading is in captioning/captioner.py; `load_captioner` can be imported from here too, as notebooks
of before do.
"""

import argparse
from pathlib import Path

from captioning.captioner import export, load_captioner
from captioning.onnx_export import export_onnx
from scripts import run_main

__all__ = ['load_captioner', 'main']


def main():
    parser = argparse.ArgumentParser(
        description='Write a checkpoint in half the size with its model file, or as ONNX.')
    parser.add_argument('checkpoint', help='such as runs/NAME/best.pt')
    parser.add_argument('--output', help='file to write; the model file is written beside it')
    parser.add_argument('--onnx', metavar='FOLDER', help='write the model there as ONNX, with '
                        'caption.py, which captions photos by it without PyTorch (docs/onnx.md)')
    parser.add_argument('--model-file', help='for --onnx: the model.py of the run, where the one '
                        'here was edited; it is run')
    args = parser.parse_args()
    if not (args.output or args.onnx):
        parser.error('--output FILE or --onnx FOLDER: where is it to be written?')
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        written = export(args.checkpoint, args.output)
        print(f'{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB, with',
              ', '.join(file.name for file in written[1:]))
    if args.onnx:
        captioner = load_captioner(args.checkpoint, 'cpu', args.model_file, names=False,
                                   consensus=False)
        export_onnx(captioner, args.onnx)
        print(f'{args.onnx}: python {Path(args.onnx) / "caption.py"} photo.jpg')


if __name__ == '__main__':
    run_main(main)
