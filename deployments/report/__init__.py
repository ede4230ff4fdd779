"""One page that shows what a run found: a single HTML file with its pictures inside, for a browser without a network."""
