"""Pages: frames in a store, address spaces that map a file's page indexes to them, and the reservation.

Synchronous, knows nothing of FUSE or trio, and can be tested without a mount.
"""

from shmfs.mm.address_space import AddressSpace, Intent
from shmfs.mm.arena import PAGE_SHIFT, PAGE_SIZE, Arena
from shmfs.mm.pages import Pages
from shmfs.mm.reservation import Reservation
from shmfs.mm.store import ManagedStore

__all__ = [
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "AddressSpace",
    "Arena",
    "Intent",
    "ManagedStore",
    "Pages",
    "Reservation",
]
