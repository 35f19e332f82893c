"""vitlab: which of ViT, DeiT, Swin and Swin v2, trained how, serves my images best, and how sure am I?

Nothing is imported here, so that `python -m vitlab --help` answers before torch would have loaded.
"""
