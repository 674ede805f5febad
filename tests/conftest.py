"""What all tests share. Modules are imported as packages where a directory has an `__init__.py`."""

import hypothesis

hypothesis.settings.register_profile(
    "shmfs",
    deadline=None,
    database=None,  # examples of one run are nobody else's, and a directory of another user fails nobody
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("shmfs"), max_examples=1000, stateful_step_count=60
)
hypothesis.settings.load_profile("shmfs")
