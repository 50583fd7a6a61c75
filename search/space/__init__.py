"""Search spaces: a recipe with holes becomes dimensions, and the values of these become a recipe again.

``space.Space`` is the entrance. It asks and fills what ``template`` reads:

* ``paths``: where the holes are; ``recipe_methods``: which merge methods read a parameter there
* ``dimension``: one dimension; ``dimension_group``: what all groups of dimensions have in common
* ``ranges``: the values of a hole, ``{search: ...}``
* ``parameters``: one value, or several values over depth (``curve``, ``layers``)
* ``ties``: ``{same_as: NAME}``; ``simplex``: ``sums_to``
* ``model_choices``: ``model``, ``base_model``, ``include`` and ``order``
* ``levels``: which dimensions share one value in a coarser search
* ``layer_ranges``: the ends of a ``layer_range``
* ``layer_stack``: ``slices: {search: ...}``, with ``stack_encoding`` and ``seams``
"""
