"""What the process of a job gets, and what it cannot reach.

A job is written by whoever submits it, and its process runs as the site's own user. It gets a listed
environment, a credential of its own that ends with the run, and the files that computing needs; the kit's
private key, the site's policy and log, other runs and other participants stay out of reach.

A user id of its own would do the same for files. It was not chosen: changing it needs a privilege that
a pod under Kubernetes' restricted standard, a container without capabilities and a user's own machine do not
have, while Landlock needs none and holds in all of them.

Nothing here knows NVFlare. It is imported before the job's process gives up its rights, so it imports little.
"""
