"""The one door of a site: what a job must be before anything of it is loaded.

Each module checks one thing, and the deployer asks them in turn.
"""
