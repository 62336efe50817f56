"""A web page on this machine that captions photos.

    make serve              # installs what the page needs, then http://127.0.0.1:7860
    python -m scripts.serve --checkpoint runs/NAME/best.pt --port 8000

Nothing is asked of any other host. Photos are deleted within two hours, or when it is stopped.
"""

import argparse
import sys

from captioning.captioner import SHIPPED, load_captioner
from scripts import add_choice_options, run_main


def main():
    parser = argparse.ArgumentParser(
        description='Caption photos on a web page of this machine.')
    parser.add_argument('--checkpoint', default=SHIPPED,
                        help='such as runs/NAME/best.pt (default: the best that ships)')
    parser.add_argument('--model-file',
                        help='the model.py of the run, where the one here was edited; it is run')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address to listen on; 0.0.0.0 lets others in (default: 127.0.0.1, '
                        'this machine alone)')
    parser.add_argument('--port', type=int, default=7860, help='(default: 7860)')
    add_choice_options(parser)
    args = parser.parse_args()
    try:
        from captioning.page import serve  # here, because most who caption photos need no Gradio
    except ModuleNotFoundError as error:
        sys.exit(f'error: {error}. `make serve` installs what the page needs, or '
                 f'`pip install -r scripts/requirements.txt`.')
    captioner = load_captioner(args.checkpoint, model_file=args.model_file, names=args.names,
                               consensus=args.consensus)
    serve(captioner, args.host, args.port)


if __name__ == '__main__':
    run_main(main)
