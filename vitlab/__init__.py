"""vitlab: which of ViT, DeiT, Swin and Swin v2, trained how, serves my images best, and how sure am I?

Nothing is imported here, so that `python -m vitlab --help` answers before torch would have loaded.
"""

import time

BEGAN = time.perf_counter()  # as near to the start of the command as our own code comes
