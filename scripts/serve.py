"""A web page on this machine that captions photos.

    make serve                                                  # installs what the page needs, then http://127.0.0.1:7860
    python -m scripts.serve --checkpoint runs/NAME/best.pt --port 8000

Nothing is asked of any other host, and photos are deleted within two hours.
"""

import argparse
import contextlib
import ctypes
import io
import os
import threading
import time
from pathlib import Path

os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE='1')    # before gradio is imported

import gradio as gr  # noqa: E402
import torch  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from PIL import Image  # noqa: E402

from data_loader import PHOTO_FORMATS, ROOT, load_image  # noqa: E402
from scripts import run_main  # noqa: E402
from scripts.checkpoint import SHIPPED, load_captioner  # noqa: E402
from scripts.decoding import attention_weights, beams, greedy  # noqa: E402
from scripts.plots import GRACE_HOPPER, plot_attention  # noqa: E402

MEGABYTES, MEGAPIXELS = 20, 50    # of a photo
METHODS = ('beam search', 'greedy')
STYLE = '''
.gradio-container {max-width: 1080px !important; margin: auto}
#caption textarea {font-size: 1.4rem; line-height: 1.4; font-weight: 600}
#others table {width: 100%; font-size: .95rem}
#others td, #others th {border-color: #d5d9e2}
#others td:first-child {white-space: nowrap}
footer {opacity: .7}
'''


DESCRIBE_EXAMPLES = '''() => setTimeout(() => document.querySelectorAll('img:not([alt]), img[alt=""]').forEach(
    image => image.alt = 'example: ' + image.src.split('/').pop()), 1000)'''    # for screen readers


def refusal(message, title='Error'):
    """What the user is told. A plain gr.Error would also print a traceback on the console, for every such file."""
    return gr.Error(message, title=title, print_exception=False)


def uploaded(upload):
    """Path of an uploaded file. Gradio checks only files that a request marks as such, so any could be asked for."""
    if not (upload and upload.path):
        return None
    if not Path(upload.path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise refusal('This file was not uploaded here.')
    return upload.path


def read_photo(path):
    """An uploaded file -> PIL image, upright RGB. gr.Error says what is wrong with it."""
    if not path:
        raise refusal('Choose a photo first.', title='No photo')
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise refusal(f'This photo has far too many pixels; {MEGAPIXELS} megapixels are the limit.') from None
    except Exception:    # decoders raise many kinds
        raise refusal('This file is not a photo that can be read: JPEG, PNG, WebP and the like are.') from None
    if width * height > MEGAPIXELS * 1e6:
        raise refusal(f'This photo has {width * height / 1e6:.0f} megapixels; {MEGAPIXELS} are the limit.')
    try:
        return load_image(path)
    except OSError:
        raise refusal('This photo cannot be read to its end: damaged, or cut short?') from None


def describe(captioner, photo, method=METHODS[0], count=5):
    """Caption a PIL image -> (captions [(text, probability)], the chosen first; its ids; features; seconds)."""
    start = time.perf_counter()
    features = captioner.features([photo])
    found = captioner.decode(features, beams, beam_size=count)[0]
    if method == 'greedy':
        chosen, = captioner.decode(features, greedy)
        found = [chosen, *(one for one in found if one.ids != chosen.ids)][:count]
    captions = [(captioner.vocab.decode(one.ids), torch.tensor(one.log_probs).sum().exp().item()) for one in found]
    return captions, found[0].ids, features, time.perf_counter() - start


@torch.no_grad()
def where_it_looked(captioner, photo, ids, features):
    """PIL image: the photo once for each word, bright where the decoder looked; None without attention."""
    if captioner.decoder.image != 'attention':
        return None
    weights = attention_weights(captioner.decoder, captioner.encoder.embed(features), ids)
    figure = plot_attention(photo, [captioner.vocab.idx2word[i] for i in ids[1:]], weights.cpu())
    drawn = io.BytesIO()
    figure.savefig(drawn, format='png', dpi=100)
    return Image.open(drawn)


def example_photos():
    """Paths of pictures that are free to show."""
    photos = sorted((ROOT / 'images' / 'photos').glob('*.jpg'))
    scenes = sorted((ROOT / 'data' / 'scenes').glob('cocoapi/images/test2014/*'))[:2]    # if they have been drawn
    return [str(path) for path in (*photos, GRACE_HOPPER, *scenes)]


def build_page(captioner):
    """The page, a gr.Blocks; its function is also the HTTP API's /caption."""
    def caption(photo, method):
        image = read_photo(photo)
        captions, ids, features, seconds = describe(captioner, image, method)
        others = '\n'.join(['| How likely | It, and others |', '|---|---|',
                            *(f'| 1 in {1 / max(chance, 1e-12):,.0f} | {text} |' for text, chance in captions)])
        looked = where_it_looked(captioner, image, ids, features)
        return captions[0][0], others, looked, f'{seconds:.2f} seconds'

    with gr.Blocks(title='What is in this photo?', delete_cache=(3600, 3600)) as page:
        gr.Markdown('# What is in this photo?\nDrag a photo here, choose one or take one. It stays on this machine.')
        with gr.Row():
            with gr.Column(min_width=300):
                photo = gr.Image(label='Photo', sources=['upload', 'webcam', 'clipboard'], type='filepath', height=360,
                                 alt_text='The photo to caption')
                photo.preprocess = uploaded    # read_photo opens it, whatever it is
                method = gr.Radio(METHODS, value=METHODS[0], label='How words are chosen')
                button = gr.Button('Generate caption', variant='primary')
            with gr.Column(min_width=300):
                text = gr.Textbox(label='Caption', lines=2, interactive=False, elem_id='caption')
                others = gr.Markdown(label='Captions and how likely the model holds them', elem_id='others')
                seconds = gr.Textbox(label='Time', interactive=False)
        with gr.Column(visible=captioner.decoder.image == 'attention'):
            gr.Markdown('Where the model looked for each word, and what share the brightest place got')
            looked = gr.Image(label='Where it looked', show_label=False, interactive=False,
                              buttons=['download', 'fullscreen'], alt_text='The photo once for each word')
        gr.Examples(example_photos(), photo, label='Examples')
        page.load(js=DESCRIBE_EXAMPLES)
        button.click(caption, [photo, method], [text, others, looked, seconds], api_name='caption')
    return page.queue(max_size=64, default_concurrency_limit=1)


def delete_broken_uploads(age):
    """Delete uploads that broke off and have not grown for `age` seconds: gradio knows of whole ones only."""
    for path in Path(get_upload_folder()).glob('tmp*'):
        with contextlib.suppress(OSError):    # it was just completed
            if path.is_file() and time.time() - path.stat().st_mtime >= age:
                path.unlink()


def keep_deleting(age=3600):
    while True:
        delete_broken_uploads(age)
        time.sleep(age)


def main():
    parser = argparse.ArgumentParser(description='Caption photos on a web page of this machine.')
    parser.add_argument('--checkpoint', default=SHIPPED,
                        help='such as runs/NAME/best.pt (default: the best that ships)')
    parser.add_argument('--model-file', help='the model.py of the run, where the one here was edited; it is run')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on; 0.0.0.0 lets others in (default: '
                        '127.0.0.1, this machine alone)')
    parser.add_argument('--port', type=int, default=7860, help='(default: 7860)')
    args = parser.parse_args()
    page = build_page(load_captioner(args.checkpoint, model_file=args.model_file))
    with contextlib.suppress(OSError, AttributeError):    # another C library than glibc
        ctypes.CDLL('libc.so.6').mallopt(-3, 2 ** 20)    # M_MMAP_THRESHOLD: what large photos took is given back
    threading.Thread(target=keep_deleting, daemon=True).start()
    theme = gr.themes.Soft(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
    print(f'http://{args.host}:{args.port}    (Ctrl-C ends it)', flush=True)
    page.launch(server_name=args.host, server_port=args.port, max_file_size=f'{MEGABYTES}mb', show_error=True,
                theme=theme, css=STYLE, footer_links=['api'], ssr_mode=False, enable_monitoring=False, quiet=True)


if __name__ == '__main__':
    run_main(main)
