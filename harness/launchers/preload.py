"""What the server that workers are forked from imports, once for all of them.

The collector is off meanwhile, which saves a fifth of the time, and what is there is exempt from then on: a collection
in a worker would copy the memory that it shares with the server.
"""

import gc

gc.disable()

import pandas  # noqa: E402  # pyarrow's first table would import it in every worker: half a second
import torch._dynamo  # noqa: E402  # torch.func's first use: more than a second

import harness.worker  # noqa: E402

__all__ = ["harness", "pandas", "torch"]
gc.freeze()
gc.enable()
