"""What NVFlare keeps of a job, its meta, as flaremesh reads it and adds to it."""

from typing import Final

FIRST_FAILURE: Final = "first_failure"
"""Key of a job's meta: the site whose process failed first, unless the job was aborted before."""
