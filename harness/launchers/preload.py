"""What the server that workers are forked from imports, once for all of them.

The collector is off meanwhile, which saves a fifth of the time, and what is there is exempt from then on: a collection
in a worker would copy the memory that it shares with the server.
"""

import gc

gc.disable()

import pandas  # pyarrow's first table would import it in every worker: half a second
import torch._dynamo  # torch.func's first use: more than a second

import harness.worker

__all__ = ["harness", "pandas", "torch"]
gc.freeze()
gc.enable()
