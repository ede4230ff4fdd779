"""One page that shows what a run found: a single HTML file with its pictures inside, read without a network."""
