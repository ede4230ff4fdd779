"""Generation-based meta-learning: what a domain lacks is made for it: its head, a sample of heads, more support.

Networks here read inner products alone and move only along vectors that the episode or base classes give them, so they
hold for views, encoders and dimensions never met. Networks on the coordinates of items were tried, and lost 1 to 10
points on domains and classes never met.
"""
