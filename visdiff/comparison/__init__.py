"""How image set A differs from image set B: the whole procedure, one module a step."""
