"""What a user would write without flaremesh: each module's ``run(site)`` is one site of it.

All systems do the same in an iteration: send the own vector to each neighbour, receive theirs, and mix
x⁺ = w_ii x + Σ_j w_ij x_j with torch into memory that is there already.
"""
