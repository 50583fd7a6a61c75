"""Recipes in the forms that people publish: each is parsed and merged."""

from pathlib import Path

import pytest
import torch

from mergesearch.merge_ops.engine.documents import merge_file

from ..helpers import INPUTS, read

FORMS = {
    "comments, blank parameters, filters with a fallback": """
        slices:
          - sources:
              - model: {inputs}/L4-ft1   # the first
                layer_range: [0, 4]
              - model: {inputs}/L4-ft2
                layer_range: [0, 4]
                parameters:
        merge_method: slerp
        base_model: {inputs}/L4-ft1
        parameters:
          t:
            - filter: self_attn
              value: [0, 0.5, 0.3, 0.7, 1]
            - filter: mlp
              value: [1, 0.5, 0.7, 0.3, 0]
            - value: 0.5 # the rest
        dtype: float16
        """,
    "gradients per model, and numbers as YAML 1.1 reads them": """
        models:
          - model: {inputs}/ft1
            parameters:
              density: [1, 0.7, 0.1]
              weight: 1e0
          - model: {inputs}/ft2
            parameters:
              density: .5
              weight: [0, 0.3, 0.7, 1]
          - model: {inputs}/ft3
            parameters:
              density: 0.33
              weight:
                - filter: mlp
                  value: 0.5
                - value: 0
        merge_method: ties
        base_model: {inputs}/base
        parameters:
          normalize: true
          int8_mask: true
        dtype: bfloat16
        """,
    "a model that says which adapter and revision it means": """
        merge_method: linear
        base_model:
          model: {{path: {inputs}/base, revision: null}}
          override_architecture: LlamaForCausalLM
        models:
          - model: {{model: {inputs}/ft1, lora: null}}
            parameters: {{weight: 0.5}}
          - model: {{model: {{path: {inputs}/ft2}}}}
            parameters: {{weight: 0.5}}
        """,
    "the base among the models, without parameters": """
        models:
          - model: {inputs}/base
          - model: {inputs}/ft1
            parameters: {{density: 0.53, weight: 0.4}}
          - model: {inputs}/ft2
            parameters: {{density: 0.53, weight: 0.3}}
        merge_method: dare_ties
        base_model: {inputs}/base
        parameters: {{int8_mask: true}}
        dtype: bfloat16
        """,
    "stacked layers": """
        dtype: float16
        merge_method: passthrough
        slices:
        - sources:
          - layer_range: [0, 3]
            model: {inputs}/L4-ft1
        - sources:
          - layer_range: [2, 4]
            model: {inputs}/L4-ft2
            parameters:
              scale:
              - filter: o_proj
                value: 0.0
              - filter: down_proj
                value: 0.0
              - value: 1.0
        """,
    "a tokenizer in the old words": """
        models: [{{model: {inputs}/vocabA, parameters: {{weight: 0.5}}}}, {{model: {inputs}/vocabB}}]
        merge_method: linear
        base_model: {inputs}/vocabA
        parameters: {{weight: 0.5}}
        tokenizer_source: model:{inputs}/vocabB
        chat_template: chatml
        """,
    "a tokenizer in the new words": """
        models: [{{model: {inputs}/vocabA, parameters: {{weight: 0.5}}}}, {{model: {inputs}/vocabB}}]
        merge_method: linear
        base_model: {inputs}/vocabA
        parameters: {{weight: 0.5}}
        tokenizer:
          source: union
          tokens:
            <|x|>: {{source: {inputs}/vocabB}}
            <|renamed|>:
              source: {{kind: model_token, model: {inputs}/vocabA, token: the}}
              force: true
            <|unused|>:
              source: {{kind: "zero"}}
          pad_to_multiple_of: null
        chat_template: auto
        out_dtype: float16
        """,
}


@pytest.mark.parametrize("name", FORMS)
def test_is_read_and_merged(name: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yml"
    file.write_text(FORMS[name].format(inputs=INPUTS))
    merge_file(file, tmp_path / "out")
    tensors = read(tmp_path / "out")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert len({tensor.dtype for tensor in tensors.values()}) == 1
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        assert model(torch.tensor([[1, 5, 7]])).logits.isfinite().all()
