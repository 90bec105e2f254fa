"""Words everybody shares: axes and protocols, named random keys, tree tools, errors, checks."""
