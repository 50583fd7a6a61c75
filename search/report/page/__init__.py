"""Pages of HTML that need no network: their style, their elements and their figures, for every page of the project."""
