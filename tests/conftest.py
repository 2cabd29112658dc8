"""What all tests share: hypothesis profiles; `pytest --hypothesis-profile=long` looks longer."""

from hypothesis import settings

settings.register_profile("long", max_examples=300, deadline=None)
