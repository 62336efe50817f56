"""The web page that captions photos, made with Gradio. `python -m scripts.serve` starts it.

    serve(load_captioner())             # http://127.0.0.1:7860, until Ctrl-C

First how the page looks (`build_page`), then what it answers, how uploads are read and deleted, and
the server. Nothing is asked of any other host, and photos are deleted within two hours, or when the
page is stopped. Gradio is in scripts/requirements.txt.
"""

import contextlib
import ctypes
import io
import os
import tempfile
import threading
import time
from pathlib import Path

import torch
from PIL import Image

from captioning import files
from captioning.attention import has_attention, show_attention
from captioning.figures import GRACE_HOPPER
from captioning.photos import PHOTO_FORMATS

os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE='1')    # gradio reads them now

import gradio as gr  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402

MEGABYTES, MEGAPIXELS = 20, 50          # of a photo, at most
METHODS = ('beam search', 'greedy')
CAPTIONS = 5                            # listed for each photo
KEPT_SECONDS = 3600                     # of uploads, which are looked through as often


# ---- Layout ----

STYLE = '''
.gradio-container {max-width: 1080px !important; margin: auto}
#caption textarea {font-size: 1.4rem; line-height: 1.4; font-weight: 600}
#others table, #recognized table {width: 100%; font-size: .95rem}
#others td, #others th, #recognized td, #recognized th {border-color: #d5d9e2}
#others td:first-child {white-space: nowrap}
footer {opacity: .7}
'''

# Gradio gives its examples no text for screen readers.
DESCRIBE_EXAMPLES = '''() => setTimeout(
    () => document.querySelectorAll('img:not([alt]), img[alt=""]').forEach(
        image => image.alt = 'example: ' + image.src.split('/').pop()),
    1000)'''


def build_page(captioner):
    """The page, a gr.Blocks; what its button calls is also the HTTP API's /caption."""
    def caption(photo, method):    # the API takes its names of arguments from here
        try:
            return answer(captioner, photo, method)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error('This photo could not be captioned. What went wrong is printed where '
                           'the page was started.') from error

    with Page(title='What is in this photo?',
                   delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown('# What is in this photo?\n'
                    'Drag a photo here, choose one or take one. It stays on this machine.')
        with gr.Row():
            with gr.Column(min_width=300):
                photo = photo_input()
                method = gr.Radio(METHODS, value=METHODS[0], label='How words are chosen')
                button = gr.Button('Generate caption', variant='primary')
            with gr.Column(min_width=300):
                text = gr.Textbox(label='Caption', lines=2, interactive=False, elem_id='caption')
                others = gr.Markdown(label='Captions and how likely the model holds them',
                                     elem_id='others')
                recognized = gr.Markdown(label='What the encoder recognized',
                                         elem_id='recognized', visible=bool(captioner.naming))
                seconds = gr.Textbox(label='Time', interactive=False)
        with gr.Column(visible=has_attention(captioner)):
            gr.Markdown('Where the model looked for each word, '
                        'and what share the brightest place got')
            looked = gr.Image(label='Where it looked', show_label=False, interactive=False,
                              buttons=['download', 'fullscreen'],
                              alt_text='The photo once for each word')
        gr.Examples(example_photos(), photo, label='Examples')
        page.load(js=DESCRIBE_EXAMPLES)
        outputs = [text, others, looked, seconds, recognized]
        button.click(caption, [photo, method], outputs, api_name='caption')
    return page.queue(max_size=64, default_concurrency_limit=1)


def photo_input():
    photo = gr.Image(label='Photo', sources=['upload', 'webcam', 'clipboard'], type='filepath',
                     height=360, alt_text='The photo to caption')
    # Its path, instead of opening it: read_photo does, whatever it is.
    photo.preprocess = lambda upload: upload.path if upload else None
    return photo


def example_photos():
    """Paths of photos that are free to show, and of two scenes where they have been drawn."""
    photos = sorted((files.ROOT / 'images' / 'photos').glob('*.jpg'))
    scenes = sorted(files.SCENES.glob('cocoapi/images/test2014/*'))[:2]
    return [str(path) for path in (*photos, GRACE_HOPPER, *scenes)]


# ---- Captioning ----

def answer(captioner, photo, method):
    """What the page shows for an uploaded photo (its path), in the order of its fields.

    Returns the caption, a table in Markdown of it and others, the picture of where the model looked
    (PIL image, or None without attention), the time that captioning took, and a table of what was
    recognized ('' where nothing is).
    """
    image = read_photo(photo, captioner.open)
    start = time.perf_counter()
    seen = captioner.see(captioner.batch([image]))
    descriptions = describe(captioner, seen, method)
    seconds = time.perf_counter() - start

    best, looked = descriptions[0], None
    if has_attention(captioner):
        looked = as_picture(show_attention(captioner, image, best.caption.ids, seen.features))
    return (best.text, likelihood_table(descriptions), looked, f'{seconds:.2f} seconds',
            recognition_table(captioner, seen, best))


def describe(captioner, seen, method, count=CAPTIONS):
    """Different captions of one image, the one that the method chooses first -> Descriptions."""
    descriptions, = captioner.describe(seen, beam_size=count, count=count)
    if method == 'greedy':
        (chosen,), = captioner.describe(seen, beam_size=1)
        others = [each for each in descriptions if each.text != chosen.text]
        descriptions = [chosen, *others][:count]
    return descriptions


def likelihood_table(descriptions):
    """A table in Markdown: how likely the model holds each caption, as 1 in so many."""
    rows = ['| How likely | It, and others |', '|---|---|']
    for description in descriptions:
        probability = torch.tensor(description.caption.log_probs).sum().exp().item()
        rows.append(f'| 1 in {1 / max(probability, 1e-12):,.0f} | {description.text} |')
    return '\n'.join(rows)


def recognition_table(captioner, seen, description):
    """A table in Markdown: what the encoder recognized, how sure it was, and whether it is said."""
    if captioner.naming is None:
        return ''
    words, = captioner.naming.recognized(seen.probabilities)
    rows = ['| Recognized | How sure | |', '|---|---|---|']
    for name in words:
        said = 'said' if name in description.names else 'not said'
        rows.append(f'| {name.word} | {name.probability:.0%} | {said} |')
    return '\n'.join(rows) if words else 'The encoder recognized nothing that it is sure of.'


def as_picture(figure):
    """A matplotlib figure -> PIL image."""
    png = io.BytesIO()
    figure.savefig(png, format='png', dpi=100, pil_kwargs={'compress_level': 1})    # is quick
    return Image.open(png)


# ---- Uploads ----

def refusal(message, title='Error'):
    """What the user is told. Gradio would otherwise print a traceback for every such file."""
    return gr.Error(message, title=title, print_exception=False)


class Page(gr.Blocks):
    """A page that opens no file but those that were uploaded to it.

    Gradio would fetch the file of a request that names a URL, checks only the paths that a request
    marks as such, and tells where its own folders are.
    """

    async def preprocess_data(self, block_fn, inputs, *others, **named):
        for path in paths_in(inputs):
            check_uploaded(path)
        return await super().preprocess_data(block_fn, inputs, *others, **named)


def paths_in(value):
    """Yields the path of each file that a request names, wherever in its JSON."""
    if isinstance(value, dict):
        if isinstance(value.get('path'), str):
            yield value['path']
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from paths_in(part)


def check_uploaded(path):
    """gr.Error for a path, or a URL, that is not the one of an uploaded file."""
    folder = Path(get_upload_folder()).resolve()
    uploaded = False
    with contextlib.suppress(OSError, ValueError):    # too long, or no path
        uploaded = Path(path).resolve().is_relative_to(folder)
    if not uploaded:
        raise refusal('This file was not uploaded here.')


def read_photo(path, open_photo):
    """An uploaded file -> PIL image, upright RGB. gr.Error says what is wrong with it."""
    if not path:
        raise refusal('Choose a photo first.', title='No photo')
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as image:
            megapixels = image.width * image.height / 1e6
    except Image.DecompressionBombError:
        raise refusal('This photo has far too many pixels; '
                      f'{MEGAPIXELS} megapixels are the limit.') from None
    except Exception:    # decoders raise many kinds
        raise refusal('This file is not a photo that can be read: '
                      'JPEG, PNG, WebP and the like are.') from None
    if megapixels > MEGAPIXELS:
        raise refusal(f'This photo has {megapixels:.0f} megapixels; {MEGAPIXELS} are the limit.')
    try:
        return open_photo(path)
    except OSError:
        raise refusal('This photo cannot be read to its end: damaged, or cut short?') from None


def delete_broken_uploads(age):
    """Delete uploads that broke off and have not grown for `age` seconds.

    Gradio's delete_cache knows only of complete ones.
    """
    for path in Path(get_upload_folder()).glob('tmp*'):
        with contextlib.suppress(OSError):    # it was just completed
            if path.is_file() and time.time() - path.stat().st_mtime >= age:
                path.unlink()


def keep_deleting(age=KEPT_SECONDS):
    while True:
        delete_broken_uploads(age)
        time.sleep(age)


# ---- Server ----

def serve(captioner, host='127.0.0.1', port=7860):
    """Serve the page until it is interrupted, and delete what was uploaded to it."""
    release_large_memory()
    theme = gr.themes.Soft(font=['system-ui', 'sans-serif'],    # none that is loaded from a host
                           font_mono=['ui-monospace', 'monospace'])
    with folder_of_uploads():
        page = build_page(captioner)
        threading.Thread(target=keep_deleting, daemon=True).start()
        print(f'http://{host}:{port}    (Ctrl-C ends it)', flush=True)
        try:
            # Of errors only what `refusal` says is shown: others may name paths of this machine.
            page.launch(server_name=host, server_port=port, max_file_size=f'{MEGABYTES}mb',
                        show_error=False, theme=theme, css=STYLE, footer_links=['api'],
                        ssr_mode=False, enable_monitoring=False, quiet=True)
        finally:
            page.close(verbose=False)


@contextlib.contextmanager
def folder_of_uploads():
    """Within the block Gradio keeps its files in a temporary folder, which is then deleted."""
    parent = os.environ.get('GRADIO_TEMP_DIR')
    with tempfile.TemporaryDirectory(prefix='captioning-', dir=parent,
                                     ignore_cleanup_errors=True) as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        yield


def release_large_memory():
    """Have the C library give back to the system what large photos took, above 1 MB each."""
    mmap_threshold = -3    # M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):    # another C library than glibc
        ctypes.CDLL('libc.so.6').mallopt(mmap_threshold, 2 ** 20)
