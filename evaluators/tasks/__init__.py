"""The other evaluators: texts, classification, embeddings, functions, programs, ensembles."""
