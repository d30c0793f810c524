"""`bench learn`: the referee's table for our learner, beside the agent alone, a peer and a ceiling.

sets       which data, how many episodes; rows of the ablations
identity   digests of all that a figure depends on
embedding  vectors of all texts of a set, computed once for all runs
learner    what the referee drives: `learning.arena` with other settings, on those vectors
ceiling, oracle   a classifier with labels, on the referee's own split
jobs       one process per set and seed
results    the file of runs, which a later call continues
figures, table, picture   medians and ranges; what is printed and drawn
cli        the verb
"""
