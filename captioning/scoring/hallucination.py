"""Things that captions say and that are not there (CHAIR).

    things = [frozenset({'dog', 'dogs'}), frozenset({'person', 'man', ...})]
    said, absent = things_said(captions, references, things)        # a list an image each
    chair(said, absent)     # {'of things': 0.3, 'of captions': 0.4}

Rohrbach et al. 2018, Object Hallucination in Image Captioning. There references and segmentations
tell what is there; here references alone, so that a thing which nobody wrote of counts as absent.
"""


def things_said(captions, references, things):
    """Which things each caption says, and which of these no reference says.

    captions: list of str, without punctuation beside words. references: list of lists of such.
    things: list of sets of forms, which may have several words. Returns two lists of lists of
    indices of things.
    """
    all_said, all_absent = [], []
    for caption, of_image in zip(captions, references, strict=True):
        said = [index for index, forms in enumerate(things) if says(caption, forms)]
        absent = []
        for index in said:
            if not any(says(reference, things[index]) for reference in of_image):
                absent.append(index)
        all_said.append(said)
        all_absent.append(absent)
    return all_said, all_absent


def says(caption, forms):
    """Whether a caption has any of the forms, as whole words."""
    padded = f' {caption} '
    return any(f' {form} ' in padded for form in forms)


def chair(said, absent):
    """Shares of the things said, and of the captions with one, that are absent -> dict of both."""
    things = sum(map(len, said))
    wrong_things = sum(map(len, absent))
    wrong_captions = sum(map(bool, absent))
    return {'of things': wrong_things / max(1, things),
            'of captions': wrong_captions / max(1, len(absent))}
