"""What a notebook shows of a run: the panel, and the same as HTML and text where widgets can't be used.

`Status -> view.view_of -> markup -> static` or ``-> widget``: what is shown is decided once, in `view`, without any
widget; HTML is written in one place, `markup`, and escaped there. Nothing here is imported by the layers below:
a `Batch` reaches its panel by name.
"""
