"""Have the data ready: `prepare_data()` finds it, draws it, downloads it or converts it.

    loc = prepare_data()            # $COCOAPI_LOC, ./cocoapi, or the built-in scenes, drawn at the first call
    loc = prepare_data('coco')      # COCO 2014, downloaded to data/coco (25 GB)
    loc = prepare_data('Flickr8k.token.txt', images='Flicker8k_Dataset')    # converted to a folder under data/
"""

from pathlib import Path

from data_loader import ROOT, SCENES, annotation_file, resolve_cocoapi_loc
from scripts import file_hash


def prepare_data(source=None, images=None):
    """Return the folder that holds `cocoapi/`, made first where it is not there.

    source: None (see data_loader.resolve_cocoapi_loc), a folder that holds cocoapi/, 'coco', or a captions file that
    scripts.convert reads, with the folder of its images in `images`. Raises what those raise.
    """
    if source == 'coco':
        from scripts.download import download_coco
        return resolve_cocoapi_loc(download_coco(ROOT / 'data' / 'coco'))
    if source and Path(source).is_file():
        from scripts.convert import convert
        output = ROOT / 'data' / f'{Path(source).name.split(".")[0]}-{file_hash(source)[:8]}'
        if not annotation_file(output, 'train').exists():
            if images is None:
                raise ValueError(f"'{source}' is a captions file: give the folder of its photos too (`images`; IMAGES "
                                 'in 0_Dataset).')
            convert(source, images, output)
        return resolve_cocoapi_loc(output)
    loc = resolve_cocoapi_loc(source)
    if loc == SCENES:
        from scripts.scenes import draw_scenes
        draw_scenes(SCENES)    # returns at once when they are there
    return loc
