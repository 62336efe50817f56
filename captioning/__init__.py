"""The library that notebooks and commands share; no command is in it.

    from captioning.captioner import load_captioner
    load_captioner().caption(['photo.jpg'])
"""
