"""Search spaces: a recipe with holes becomes dimensions, and a point of them a recipe again."""
