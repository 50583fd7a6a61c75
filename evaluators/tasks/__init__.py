"""The evaluators that a config can name, besides lm_eval: one module each. An ensemble of models stands here too."""
