"""What a config says about an lm-eval task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from mergesearch.evaluators.contract.options import EvaluatorOptions

if TYPE_CHECKING:
    from mergesearch.evaluators.lm_eval.task_loading import TaskOverrides


class LmEvalOptions(EvaluatorOptions):
    """An lm-eval task, group or tag, and its metric. Names and defaults are those of lm-eval's command line."""

    task: str = Field(
        min_length=1, description="Name of a task, group or tag of lm-eval, or of your own in include_path"
    )
    metric: str = Field(
        "acc", min_length=1, description="A metric of the task; 'metric,filter' if it has several filters"
    )
    num_fewshot: int | None = Field(None, ge=0, description="Examples before each question; default: the task's")
    fewshot_seed: int = Field(1234, description="Seed for the choice of the examples")
    apply_chat_template: bool | str = Field(False, description="Apply the tokenizer's chat template: true, or its name")
    fewshot_as_multiturn: bool | None = Field(
        None, description="Examples as turns of a conversation; default: true with a chat template"
    )
    system_instruction: str | None = Field(None, description="System message at the start of the prompt")
    gen_kwargs: dict[str, Any] | None = Field(None, description="Generation settings that replace those of the task")
    max_length: int | None = Field(None, gt=1, description="Maximum tokens of a sequence; default: the model's context")
    add_bos_token: bool | None = Field(None, description="Put the tokenizer's beginning-of-text token first")
    confirm_run_unsafe_code: bool = Field(False, description="Allow a task to run code that the model writes")

    @model_validator(mode="after")
    def _multiturn_needs_a_template(self) -> LmEvalOptions:
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError("fewshot_as_multiturn: true needs apply_chat_template: true")
        return self

    def overrides(self) -> TaskOverrides:
        """What these options change in every task."""
        from mergesearch.evaluators.lm_eval.task_loading import TaskOverrides

        multiturn = self.fewshot_as_multiturn
        return TaskOverrides(
            num_fewshot=self.num_fewshot,
            fewshot_seed=self.fewshot_seed,
            gen_kwargs=self.gen_kwargs,
            system_instruction=self.system_instruction,
            fewshot_as_multiturn=bool(self.apply_chat_template) if multiturn is None else multiturn,
            confirm_run_unsafe_code=self.confirm_run_unsafe_code,
        )
