"""Have the data ready: `prepare_data()` finds it, draws it, downloads it or converts it.

    data = prepare_data()           # $COCOAPI_LOC, ./cocoapi, or the built-in scenes
    data = prepare_data('coco')     # COCO 2014, downloaded to data/coco (28 GB)
    data = prepare_data('Flickr8k.token.txt', images='Flicker8k_Dataset')    # converted
"""

from pathlib import Path

from captioning import files
from captioning.caption_data import CaptionData, find_data


def prepare_data(source=None, images=None):
    """Open a data set, made first where it is not there -> CaptionData.

    source: None (see caption_data.find_folder), a folder that holds cocoapi/, 'coco', or a captions
    file that `convert` reads, with the folder of its images in `images`. Raises what those raise.
    """
    if source == 'coco':
        from captioning.coco_download import download_coco
        return find_data(download_coco(files.ROOT / 'data' / 'coco'))
    if source and Path(source).is_file():
        return find_data(_converted(source, images))
    data = find_data(source)
    if data.folder == files.SCENES:
        from captioning.scenes import draw_scenes
        draw_scenes(files.SCENES)    # returns at once when they are there
    return data


def _converted(source, images):
    from captioning.convert import convert
    name = Path(source).name.split('.')[0]
    output = files.ROOT / 'data' / f'{name}-{files.file_hash(source)[:8]}'
    if not CaptionData(output).annotation_file('train').exists():
        if images is None:
            raise ValueError(f"'{source}' is a captions file: give the folder of its photos too "
                             '(`images`; IMAGES in 0_Dataset).')
        convert(source, images, output)
    return output
