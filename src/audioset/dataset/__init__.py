"""AudioSet and YouTube-8M as data: segments, labels, ontology, released features, and the sound itself.

Each module is one kind of file; what it reads comes back as an Arrow table, a small dataclass or a NumPy array.
"""

from __future__ import annotations
