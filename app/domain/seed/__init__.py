"""A synthetic program, made through the operations that a real one uses.

`center` is where it is and who works there, `people` are the patients, `story` is what happens to
them, `telling` makes it happen. Nobody in it exists; everything is labelled HTEST.
"""

from app.domain.seed.sizes import AS_OF, SIZES, Size
from app.domain.seed.teller import Refused, Seeded
from app.domain.seed.telling import seed

__all__ = ["AS_OF", "SIZES", "Refused", "Seeded", "Size", "seed"]
