"""The only place that knows how NVFlare works inside.

Controllers, executors and agents are NVFlare components: they import what NVFlare documents in
``nvflare.apis`` (Controller, Executor, FLComponent, FLContext, Shareable, DXO, Task, events, return codes,
keys of a context). All else of NVFlare is used in this package alone: its private modules, the objects that a
context leads to (an engine, a cell, a job runner) and their attributes, the files in kits and in the state of
a provisioning, the order of builders, the arguments of its processes, and what is replaced in its modules.
Others call this package, in flaremesh's terms.

``tests/contracts`` asserts all that is relied on here, by name, and that no other module reaches further than
the first sentence says. The package imports no torch, and of flaremesh only what lies below
``flaremesh.p2p``.
"""
