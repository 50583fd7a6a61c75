"""Live models whose parameters are seen under their checkpoint names."""
