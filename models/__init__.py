"""The maths: episodes, learners, baselines, evaluation, downstream use. Tensors in, tensors out.

No files, no clocks, no trackers, no global random state.
"""
