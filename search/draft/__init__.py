"""A first config: from the models of a person, or translated from one of another tool."""
