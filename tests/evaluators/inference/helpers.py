"""What the tests of inference share: random models of any architecture, and requests for them."""

import random
from typing import Any

import torch

from mergesearch.evaluators import LoadedModel
from mergesearch.evaluators.inference.batch_plan import Request
from mergesearch.evaluators.inference.logprobs import ContinuationScorer

from ...tolerances import close, path_length

CPU = torch.device("cpu")
WIDTH = 16
SMALL = {
    "vocab_size": 64,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}


def random_model(name: str, **config: Any) -> Any:
    """A small causal language model of that architecture, such as Llama."""
    import transformers

    model_config = getattr(transformers, f"{name}Config")(**{**SMALL, **config})
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return getattr(transformers, f"{name}ForCausalLM")(model_config).eval()


def tokens(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.choices(range(3, 60), k=count))


def questions(count: int, shots: int = 0) -> list[list[Request]]:
    """Questions of four choices each. Contexts begin with ``shots`` tokens that all have in common."""
    rng = random.Random(1)
    common = tokens(rng, shots)
    return [_choices(rng, common) for _ in range(count)]


def _choices(rng: random.Random, common: tuple[int, ...]) -> list[Request]:
    context = common + tokens(rng, rng.randint(12, 30))
    return [Request(context, tokens(rng, rng.randint(1, 5))) for _ in range(4)]


def scorer_of_questions(model: Any, shots: int = 0) -> tuple[ContinuationScorer, list[list[int]]]:
    """A scorer with eight questions, and for each question the indices of its queries."""
    queries = [(request,) for choices in questions(8, shots) for request in choices]
    documents = [list(range(4 * n, 4 * n + 4)) for n in range(8)]
    return ContinuationScorer(LoadedModel(model, None), queries, 128, 8), documents


def random_requests(count: int) -> list[Request]:
    rng = random.Random(0)
    lengths = [(rng.randint(1, 20), rng.randint(1, 6)) for _ in range(count)]
    return [Request(tokens(rng, context), tokens(rng, continuation)) for context, continuation in lengths]


def reference_scores(model: Any, requests: list[Request]) -> list[tuple[float, bool]]:
    """For each request its log-probability and whether it is greedy, with plain transformers, one by one."""
    return [_reference_score(model, request) for request in requests]


def _reference_score(model: Any, request: Request) -> tuple[float, bool]:
    ids = torch.tensor([request.context + request.continuation])
    with torch.no_grad():
        logprobs = model(ids).logits[0, len(request.context) - 1 : -1].log_softmax(-1)
    continuation = torch.tensor(request.continuation)
    logprob = float(logprobs.gather(1, continuation[:, None]).sum())
    return logprob, bool((logprobs.argmax(-1) == continuation).all())


def close_logprobs(expected: list[float], model: Any, tokens: int) -> Any:
    """What equals the log-probabilities of a float64 model for sequences of so many tokens, in batches of any shape.

    Eager attention has a softmax in float32 even so: a sum over the tokens, and four operations.
    """
    if model.config._attn_implementation == "eager":
        return close(expected, tokens + 4, torch.float32)
    return close(expected, path_length(model, tokens))
