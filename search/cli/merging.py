"""Commands about merges: align, merge, methods, remerge."""

from pathlib import Path

import click

from mergesearch.search.cli.common import command, echo, tell, trust_option
from mergesearch.search.cli.completion import method_names
from mergesearch.trust import trust_code


@command("mergesearch merge results/runs/python-cpp/best.yml merged")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--allow-nan", is_flag=True, help="Merge tensors with NaN or infinite values too.")
@click.option("--verify", is_flag=True, help="Read the written tensors back from the disk, and compare them.")
@trust_option
def merge(recipe: Path, out: Path, allow_nan: bool, verify: bool, trust: bool) -> None:
    """Merge models by a recipe into a new folder.

    RECIPE is a file in mergekit's YAML format. OUT must be empty or not exist. Paths in the recipe are relative to the
    current folder.
    """
    from mergesearch.merge_ops.engine.documents import merge_file
    from mergesearch.merge_ops.engine.options import MergeOptions

    options = MergeOptions(echo, lambda line: tell(f"warning: {line}"), allow_nan, verify)
    with trust_code(trust, tell):
        merge_file(recipe, out, options)
    echo(f"wrote {out}")


WAYS = ["weights", "activations", "orthogonal"]


@command("mergesearch align models/one models/two aligned")
@click.argument("anchor", metavar="A")
@click.argument("model", metavar="B")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--by", default="weights", show_default=True, type=click.Choice(WAYS), help="What is compared.")
@click.option("--data", help="Text, or .safetensors file with inputs, that both models run on to compare activations.")
@click.option("--spec", help="YAML file of groups, or module:function, for models that transformers does not know.")
@click.option("--verify", is_flag=True, help="Read the written tensors back from the disk, and compare them.")
@trust_option
def align(  # noqa: PLR0913, PLR0917 - what the user gives
    anchor: str, model: str, out: Path, by: str, data: str | None, spec: str | None, verify: bool, trust: bool
) -> None:
    """Write B with its neurons, heads and channels in the order of A.

    B computes the same in this order, and can be averaged with A. With --by orthogonal, its residual stream is rotated
    as well. OUT is a new folder that transformers loads, or a .safetensors file.
    """
    from mergesearch.merge_ops.checkpoint.references import Alignment
    from mergesearch.merge_ops.engine.aligned_output import write_aligned
    from mergesearch.merge_ops.engine.options import MergeOptions

    options = MergeOptions(echo, lambda line: tell(f"warning: {line}"), verify=verify)
    with trust_code(trust or spec is not None, tell):  # to name a function here is the permission
        write_aligned(model, Alignment(anchor, by, spec, data), out, options)
    echo(f"wrote {out}")


@command("mergesearch methods ties")
@click.argument("name", required=False, shell_complete=method_names)
@trust_option
def methods(name: str | None, trust: bool) -> None:
    """List the merge methods, or describe one.

    With NAME: formula, paper, parameters with defaults and ranges for a search, and an example.
    """
    from mergesearch.merge_ops.methods import METHODS, find_method
    from mergesearch.search.report.methods_page import method_page, methods_table

    with trust_code(trust, tell):
        click.echo(method_page(find_method(name)) if name else methods_table(METHODS))


@command("mergesearch remerge results/runs/demo --out next.yml")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The config to write, e.g. next.yml.")
@click.option("--top", default=4, show_default=True, type=click.IntRange(min=2), help="Number of merges.")
def remerge(runs: tuple[Path, ...], out: Path, top: int) -> None:
    """Make the best merges of finished runs the models of a new search.

    RUNS are folders such as results/runs/NAME, with the same tasks and split. Writes the merges into a folder beside
    the config OUT, which has the tasks and the split of the first run, so that its test items stay unseen. The recipes
    that the next run writes are made of the first checkpoints alone.
    """
    from mergesearch.search.remerge import remerge as make

    make(runs, out, top, echo)
    echo(f"wrote {out}; next: mergesearch run {out}")
