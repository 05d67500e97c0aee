"Data of all kinds, for each file that asks about them"
from source_toys import kind  # noqa: F401
