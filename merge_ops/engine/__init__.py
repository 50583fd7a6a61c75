"""The engine: builds the models of recipes from checkpoints, as live models or as folders."""
