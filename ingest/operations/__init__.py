"""What is done to a journal and its packs outside a run.

Decides and asks; the way of a job is the pipeline's, and what a person reads the command line's.
"""
