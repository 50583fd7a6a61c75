"""Margins of 243 merges on 1,280 items: recorded once, and taken by every benchmark that replays merges.

The models are a former demo's: a Llama of a million parameters and two that were trained on from it, on Python and on
C++. An item is a line of code from a held-out file against the same line with a wrong token. The file holds

- ``names``: [merges], the baselines, then the method of each random merge, ``task_arithmetic`` or ``ties``;
- ``points``: [merges, 16], the parameters model by model, one for each layer, and NaN after the last: weights of 0 to
  1.5 and, for TIES, densities of .05 to 1. They are Sobol points; of every ten in a row, five lie between 10 %
  and 65 % of each range, where the good merges are;
- ``margins``: [merges, items] float16, the log-probability of the right choice less that of the best other one, by
  lm-eval's own model class; an item is right where its margin is positive;
- ``sizes``: [2 tasks, 2], the items of search and of test; the columns of ``margins`` are in this order.
"""

from machine import FOLDER

RECORDING = FOLDER / "search_efficiency_demo.npz"
